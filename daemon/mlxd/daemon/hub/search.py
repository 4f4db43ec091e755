"""Searches the hub for MLX models, with the size of each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.hf_api import ModelInfo

from mlxd.daemon.hub.failures import described, is_connection_failure, offline
from mlxd.daemon.hub.pull import model_files
from mlxd.protocol.errors import HubUnreachable, MlxdError, ModelLoadFailed

LIBRARY = "mlx"
SUGGESTED_AUTHOR = "mlx-community"
SUGGESTED_TASK = "text-generation"
AT_ONCE = 8
MAIN = "main"


def search(job: dict[str, Any]) -> dict[str, Any]:
    """Return {models: [{name, bytes, downloads, gated}]} for `query`, most downloaded first.

    Without a query: popular text models of mlx-community. Models without weights that MLX can load
    are left out.

    Raises:
        HubUnreachable: there is no connection, or HF_HUB_OFFLINE is set.
        ModelLoadFailed: the hub refused the search.
    """
    api = huggingface_hub.HfApi()
    try:
        _connect()
        found = list(_listed(api, job["query"], job["limit"]))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            records = list(pool.map(lambda one: _record(api, one), found))
    except Exception as exc:
        raise _translated(exc, job["query"]) from exc
    return {"models": [record for record in records if record is not None]}


def _connect() -> None:
    """Raise an error at once if the hub cannot be reached.

    A person waits for a search, and `list_models` repeats a refused connection for 23 seconds.
    """
    huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT)


def _listed(api: huggingface_hub.HfApi, query: str | None, limit: int) -> Any:
    if query is None:
        return api.list_models(
            filter=LIBRARY,
            author=SUGGESTED_AUTHOR,
            pipeline_tag=SUGGESTED_TASK,
            sort="downloads",
            limit=limit,
        )
    # Ollama writes MODEL:SIZE. Names on the hub contain both as words.
    words = query.replace(":", " ")
    return api.list_models(filter=LIBRARY, search=words, sort="downloads", limit=limit)


def _record(api: huggingface_hub.HfApi, found: ModelInfo) -> dict[str, Any] | None:
    try:
        # Search results have no sizes, but a branch's file list does.
        info = api.model_info(found.id, revision=MAIN, files_metadata=True)
        files = model_files(info, found.id)
    except ModelLoadFailed:
        return None
    except hub_errors.HfHubHTTPError as exc:
        if is_connection_failure(exc):
            raise
        return None  # removed or made private since it was indexed
    return {
        "name": found.id,
        "bytes": sum(f.size or 0 for f in files if f.rfilename.endswith(".safetensors")),
        "downloads": found.downloads or 0,
        "gated": bool(info.gated),
    }


def _translated(exc: Exception, query: str | None) -> MlxdError:
    command = "mlx models suggest" if query is None else f"mlx models search {query}"
    if isinstance(exc, hub_errors.OfflineModeIsEnabled):
        return offline(command)
    endpoint = huggingface_hub.constants.ENDPOINT
    if is_connection_failure(exc):
        return HubUnreachable(
            f"{endpoint} cannot be reached: {described(exc)}",
            hint=f"Check the network and HF_ENDPOINT, then: {command}",
        )
    return ModelLoadFailed(
        f"The search at {endpoint} failed: {described(exc)}", hint=f"Try again: {command}"
    )
