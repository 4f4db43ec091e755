"""Ollama's paths about models: tags, show, ps, pull, delete, copy, version."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from mlxd.http import answers
from mlxd.http.capabilities import capabilities_of, template_of
from mlxd.http.dialects import models, ollama
from mlxd.http.dialects.ollama import timestamp
from mlxd.http.exchange import dump_json
from mlxd.http.problems import Unsupported, invalid, text_of
from mlxd.http.prompts import flag
from mlxd.http.routes import Call
from mlxd.protocol.errors import MlxdError, ModelNotFound

VERSION = "0.13.0"
"""The version of Ollama whose interface this is. Copilot requires 0.6.4 or newer."""
FOREVER_S = 10 * 365 * 86_400.0

Record = dict[str, Any]


async def handle_root(call: Call) -> None:
    """Answer GET / and HEAD /, with the text that clients of Ollama look for."""
    await call.exchange.reply(200, b"Ollama is running", "text/plain")


async def handle_version(call: Call) -> None:
    """Answer GET /api/version."""
    await call.exchange.reply_json(200, {"version": VERSION})


async def handle_tags(call: Call) -> None:
    """Answer GET /api/tags."""
    async with call.daemon.connect() as client:
        found = models.usable(await client.request("models.list"))
    await call.exchange.reply_json(200, {"models": [entry(*one) for one in found]})


async def handle_show(call: Call) -> None:
    """Answer POST /api/show."""
    name = ollama.model_of(call.body)
    async with call.daemon.connect() as client:
        record = await client.request("models.show", {"model": name})
    if record.get("problem"):
        raise ModelNotFound(f"The model {name!r} cannot be used: {record['problem']}")
    await call.exchange.reply_json(200, await asyncio.to_thread(shown, record))


async def handle_ps(call: Call) -> None:
    """Answer GET /api/ps."""
    async with call.daemon.connect() as client:
        loaded = (await client.request("ps"))["models"]
        listed = (await client.request("models.list"))["models"]
    records = {one["name"]: one for one in listed}
    found = [running(one, records.get(one["model"], {})) for one in loaded]
    await call.exchange.reply_json(200, {"models": found})


async def handle_pull(call: Call) -> None:
    """Answer POST /api/pull, with progress unless `stream` is false."""
    name = ollama.model_of(call.body)
    if not flag(call.body, "stream", default=True):
        async with call.daemon.connect() as client:
            await client.request("models.pull", {"model": name})
        await call.exchange.reply_json(200, {"status": "success"})
        return
    async with aclosing(_pulling(call, name)) as lines:
        try:
            async for line in lines:
                if not call.exchange.started:
                    await call.exchange.start(200, {"content-type": "application/x-ndjson"})
                await call.exchange.write(dump_json(line) + b"\n")
        except MlxdError as error:
            if not call.exchange.started:
                raise
            await call.exchange.write(dump_json({"error": text_of(error)}) + b"\n")
    await call.exchange.finish()


async def _pulling(call: Call, name: str) -> AsyncGenerator[dict[str, Any], None]:
    """Yield the progress of a download, and a line at least every `SILENCE_S`."""
    async with (
        call.daemon.connect() as client,
        client.stream("models.pull", {"model": name}) as events,
    ):
        line: dict[str, Any] = {"status": f"pulling {name}"}
        while True:
            try:
                async with asyncio.timeout(answers.SILENCE_S):
                    event = await anext(events)
            except TimeoutError:
                pass
            except StopAsyncIteration:
                break
            else:
                line = progress(event) or line
            yield line
        await events.result()
        yield {"status": "success"}


async def handle_delete(call: Call) -> None:
    """Answer DELETE /api/delete."""
    async with call.daemon.connect() as client:
        await client.request("models.remove", {"model": ollama.model_of(call.body)})
    await call.exchange.reply(200, b"", "application/json")


async def handle_copy(call: Call) -> None:
    """Answer POST /api/copy: the destination becomes an alias."""
    source, destination = call.body.get("source"), call.body.get("destination")
    for field, value in (("source", source), ("destination", destination)):
        if not isinstance(value, str) or not value:
            raise invalid(field, "is required")
    names = {"alias": str(destination), "model": str(source).removesuffix(":latest")}
    async with call.daemon.connect() as client:
        await client.request("models.alias", names)
    await call.exchange.reply(200, b"", "application/json")


async def handle_unsupported(_: Call) -> None:
    """Answer create, push and blobs."""
    raise Unsupported(
        "mlxd does not create or publish models.", hint="Convert one: mlx models convert"
    )


# ---- translations


def progress(event: dict[str, Any]) -> dict[str, Any] | None:
    """Return a line about a file that is being downloaded. None: the event is about nothing."""
    if event.get("type") != "progress":
        return None
    file = str(event.get("file"))
    digest = _digest(file)
    sizes = {"completed": event.get("done") or 0}
    if event.get("total") is not None:
        sizes["total"] = event["total"]
    return {"status": f"pulling {file}", "digest": digest, **sizes}


def entry(name: str, record: Record) -> dict[str, Any]:
    """Return a model of the list."""
    return {
        "name": name,
        "model": name,
        "modified_at": timestamp(models.created_s(record)),
        "size": record.get("bytes") or 0,
        "digest": _digest(f"{record.get('path')}@{record.get('revision')}"),
        "details": details(record),
    }


def details(record: Record) -> dict[str, Any]:
    """Return the family, size and quantisation of a model."""
    family = str(record.get("architecture") or "unknown")
    bits = record.get("bits")
    return {
        "parent_model": "",
        "format": "mlx",
        "family": family,
        "families": [family],
        "parameter_size": count_text(record.get("parameters")),
        "quantization_level": f"Q{bits}" if bits else str(record.get("dtype") or "unknown"),
    }


def count_text(count: int | None) -> str:
    """Return a number of parameters as Ollama writes it, such as 7.6B."""
    if not count:
        return ""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def shown(record: Record) -> dict[str, Any]:
    """Return what /api/show tells of a model. Reads the chat template."""
    can = capabilities_of(record)
    family = str(record.get("architecture") or "unknown")
    capabilities = ["completion"]
    capabilities += [
        name for name, has in (("tools", can.tools), ("thinking", can.thinking)) if has
    ]
    return {
        "modelfile": "",
        "parameters": "",
        "license": "",
        "template": template_text(record),
        "modified_at": timestamp(models.created_s(record)),
        "details": details(record),
        "model_info": {
            "general.architecture": family,
            "general.basename": record["name"],
            "general.parameter_count": record.get("parameters"),
            f"{family}.context_length": record.get("context_tokens"),
        },
        "capabilities": capabilities,
    }


def template_text(record: Record) -> str:
    """Return the chat template. It is Jinja, not Go."""
    return template_of(Path(record.get("path") or "/nowhere"))


def running(loaded: dict[str, Any], record: Record) -> dict[str, Any]:
    """Return a model of /api/ps."""
    left_s = loaded["keep_alive_s"] - loaded["idle_s"]
    forever = loaded["keep_alive_s"] < 0 or loaded.get("pinned")
    return {
        **entry(loaded["model"], {**record, "path": loaded["path"]}),
        "size": loaded["bytes"],
        "size_vram": loaded["bytes"],
        "expires_at": timestamp(_now() + (FOREVER_S if forever else max(left_s, 0.0))),
        "context_length": loaded.get("context_tokens"),
    }


def _now() -> float:
    return time.time()


def _digest(text: str) -> str:
    """Return an id in the form of a digest. mlxd does not hash the weights."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
