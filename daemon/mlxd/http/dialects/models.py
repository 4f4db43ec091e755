"""The lists of models in the forms of OpenAI and Anthropic."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from mlxd.http.problems import Unsupported
from mlxd.http.routes import Call
from mlxd.protocol.errors import ModelNotFound

Record = dict[str, Any]


async def handle_list(call: Call) -> None:
    """Answer GET /v1/models."""
    async with call.daemon.connect() as client:
        found = usable(await client.request("models.list"))
    headers = call.exchange.head.headers
    body = anthropic_list(found) if "anthropic-version" in headers else openai_list(found)
    await call.exchange.reply_json(200, body)


async def handle_one(call: Call) -> None:
    """Answer GET /v1/models/{id}. The id of a model may contain slashes."""
    name = call.id.removesuffix("/")
    async with call.daemon.connect() as client:
        record = await client.request("models.show", {"model": name})
    if record.get("problem"):
        raise ModelNotFound(f"The model {name!r} cannot be used: {record['problem']}")
    as_anthropic = "anthropic-version" in call.exchange.head.headers
    body = anthropic_model(name, record) if as_anthropic else openai_model(name, record)
    await call.exchange.reply_json(200, body)


async def handle_embeddings(_: Call) -> None:
    """Answer the paths of embeddings."""
    raise Unsupported("mlxd does not compute embeddings.", hint="Use another server for them.")


def usable(listed: dict[str, Any]) -> list[tuple[str, Record]]:
    """Return the name and the record of every usable model, the default first, then aliases."""
    records: dict[str, Record] = {
        one["name"]: one for one in listed.get("models") or [] if not one.get("problem")
    }
    default = listed.get("default")
    names = sorted(records, key=lambda name: (name != default, name))
    found = [(name, records[name]) for name in names]
    aliases = (listed.get("aliases") or {}).items()
    return found + [(alias, records[name]) for alias, name in sorted(aliases) if name in records]


def created_s(record: Record) -> float:
    """Return when the model's folder last changed, in seconds since 1970. 0: unknown."""
    try:
        return os.stat(record.get("path") or "").st_mtime
    except OSError:
        return 0.0


def openai_model(name: str, record: Record) -> dict[str, Any]:
    """Return a model in OpenAI's form, with the names that other servers use for its context."""
    context = record.get("context_tokens")
    return {
        "id": name,
        "object": "model",
        "created": int(created_s(record)),
        "owned_by": "mlxd",
        "context_length": context,
        "max_model_len": context,
        "meta": {
            "n_ctx_train": context,
            "n_params": record.get("parameters"),
            "size": record.get("bytes"),
        },
    }


def openai_list(found: Iterable[tuple[str, Record]]) -> dict[str, Any]:
    """Return a list of models in OpenAI's form."""
    return {"object": "list", "data": [openai_model(*one) for one in found]}


def anthropic_model(name: str, record: Record) -> dict[str, Any]:
    """Return a model in Anthropic's form."""
    created = datetime.fromtimestamp(int(created_s(record)), UTC)
    return {
        "type": "model",
        "id": name,
        "display_name": name,
        "created_at": created.isoformat().replace("+00:00", "Z"),
        "max_input_tokens": record.get("context_tokens"),
        "max_tokens": record.get("context_tokens"),
    }


def anthropic_list(found: Iterable[tuple[str, Record]]) -> dict[str, Any]:
    """Return a list of models in Anthropic's form, in one page."""
    data = [anthropic_model(*one) for one in found]
    ids = [one["id"] for one in data] or [None]
    return {"data": data, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}
