"""The methods for models: `load`, `unload`, `ps` and `models.*`."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlxd.daemon.config_edit import edit_config
from mlxd.daemon.front.handlers.answers import Answer, Handler, Params
from mlxd.daemon.front.hub import Report
from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.daemon.front.services import Services
from mlxd.daemon.models import names
from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.models.files import identity
from mlxd.daemon.models.importing import import_models, remove_link
from mlxd.protocol.errors import InvalidParams, ModelNotFound, Overloaded
from mlxd.protocol.hub_environment import is_hub_variable

GROUP_SIZES = (None, 16, 32, 64, 128)
SUGGESTIONS_FROM = 40
"""Number of popular models from which `models.search` without a query selects those that fit."""
SHARE_OF_MEMORY = 0.66
"""Share of the machine's memory, about the budget that the engine uses once it runs."""
DEFAULT_VARIABLE = "MLXD_DEFAULT_MODEL"
BYTES_PER_BITS = {None: 2.0, 2: 0.31, 3: 0.44, 4: 0.56, 5: 0.69, 6: 0.81, 8: 1.06}
"""Bytes per weight after a conversion, including the scales of groups of 64. Only used for
progress."""


async def _list(services: Services, request: RequestInFlight, params: Params) -> Any:
    # On a thread, because a large cache on a slow disk must not delay streams.
    records = [record.to_map() for record in await asyncio.to_thread(services.catalog.list)]
    default = await asyncio.to_thread(_full_name, services.catalog, services.config.default_model)
    return {"models": records, "default": default, "aliases": dict(services.config.aliases)}


async def _show(services: Services, request: RequestInFlight, params: Params) -> Any:
    record = await _record(services, params["model"])
    budget = services.supervisor.status().get("memory_budget_bytes")
    loaded = [one for one in services.supervisor.loaded_models if one["path"] == record["path"]]
    return {
        **record,
        "fits_in_memory": None if budget is None else record["bytes"] < budget,
        "notes": loaded[0]["notes"] if loaded else [],
    }


async def _record(services: Services, name: str | None) -> dict[str, Any]:
    return (await asyncio.to_thread(services.catalog.show, name)).to_map()


async def _pull(services: Services, request: RequestInFlight, params: Params) -> Any:
    repo, revision = services.catalog.hub_target(params["model"])
    job = {
        "task": "pull",
        "repo": repo,
        "revision": params["revision"] or revision,
        "environment": _environment(params["environment"] or {}),
        "cache_dir": str(services.catalog.cache_dir),
    }
    pulled = await services.hub.run(job, _reporter(request, params))
    services.log("pulled", model=repo, revision=pulled["revision"], bytes=pulled["bytes"])
    return {**await _record(services, repo), "revision": pulled["revision"]}


def _environment(given: dict[str, Any]) -> dict[str, str]:
    """Validate the variables for a download. Errors contain their names, never their values."""
    for name, value in given.items():
        if not is_hub_variable(name):
            raise InvalidParams("environment", f"{name!r} is not a variable of the hub")
        if not isinstance(value, str) or "\0" in value:
            raise InvalidParams("environment", f"{name} must be a string")
    return given


async def _convert(services: Services, request: RequestInFlight, params: Params) -> Any:
    if params["group_size"] not in GROUP_SIZES:
        raise InvalidParams("group_size", "must be 16, 32, 64 or 128")
    ref = await services.models.find(services.catalog, {"model": params["model"]})
    record = await _record(services, params["model"])
    output = _output(services, ref.name, params)
    weights = record["parameters"] or 0
    job = {
        "task": "convert",
        "name": ref.name,
        "path": ref.path,
        "output": str(output),
        "expected_bytes": int(weights * BYTES_PER_BITS.get(params["bits"], 2.0)),
        "trust_remote_code": ref.trust_remote_code,
        **{key: params[key] for key in ("bits", "group_size", "mode", "dtype")},
    }
    done = await services.hub.run(job, _reporter(request, params))
    services.log("converted", model=ref.name, output=str(output), bytes=done["bytes"])
    name = output.name if output.parent == services.paths.models_dir else str(output)
    return {**await _record(services, name), "source_bytes": done["source_bytes"]}


def _output(services: Services, name: str, params: Params) -> Path:
    if (chosen := params["output"]) is None:
        last = name.rstrip("/").rsplit("/", 1)[-1]
        kind = f"{params['bits']}bit" if params["bits"] else params["dtype"] or "mlx"
        path = services.paths.models_dir / f"{last}-{kind}"
    else:
        path = Path(os.path.expanduser(chosen))
    if not path.is_absolute():
        raise InvalidParams("output", "must be an absolute path")
    if os.path.lexists(path):
        raise InvalidParams("output", f"{path} exists", hint="Give a folder that does not exist.")
    return path


def _reporter(request: RequestInFlight, params: Params) -> Report:
    def report(progress: dict[str, Any]) -> None:
        conn = request.conn
        if params["stream"] and conn.open:
            conn.event({"id": request.event_id, "type": "progress", **progress})
            conn.flush()

    return report


async def _import(services: Services, request: RequestInFlight, params: Params) -> Any:
    path = params["path"]
    if path is not None and not path.startswith(("/", "~")):
        raise InvalidParams("path", "must be an absolute path")
    async with services.models.naming:
        report = await asyncio.to_thread(_linked, services, path)
    for one in report["imported"]:
        services.log("imported", model=one["name"], path=one["path"])
    return report


def _linked(services: Services, path: str | None) -> dict[str, Any]:
    known = {identity(record.path): record.name for record in services.catalog.list()}
    folder = None if path is None else Path(identity(path))
    return import_models(folder, services.paths.models_dir, known, Path.home()).to_map()


async def _search(services: Services, request: RequestInFlight, params: Params) -> Any:
    query, limit = params["query"], params["limit"]
    job = {
        "task": "search",
        "query": query,
        "limit": SUGGESTIONS_FROM if query is None else limit,
        "environment": _environment(params["environment"] or {}),
    }
    found = (await services.hub.run(job, lambda progress: None))["models"]
    here = set(await asyncio.to_thread(services.catalog.names))
    budget = _memory_budget_bytes(services)
    records = [
        {**one, "fits_in_memory": one["bytes"] < budget, "on_this_machine": one["name"] in here}
        for one in found
    ]
    if query is None:
        fitting = [one for one in records if one["fits_in_memory"]]
        records = sorted(fitting, key=lambda one: -int(one["bytes"]))[:limit]
    return {"models": records, "memory_budget_bytes": budget}


def _memory_budget_bytes(services: Services) -> int:
    """Return the engine's memory budget, or an estimate if no engine runs."""
    known = services.supervisor.status().get("memory_budget_bytes")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(known or services.config.memory_budget_bytes or total * SHARE_OF_MEMORY)


async def _remove(services: Services, request: RequestInFlight, params: Params) -> Any:
    name, folder = services.catalog.removable(params["model"])
    if services.supervisor.running:
        # Check the folder too, because a snapshot may have been loaded by its path.
        target = {"name": name, "path": None, "under": identity(folder)}
        unloaded = await services.supervisor.call("unload", target)
        if unloaded["pending_requests"]:
            raise Overloaded(
                f"{name} is answering {unloaded['pending_requests']} requests.",
                hint="Delete it when they have ended.",
                data={"retry_after_s": 5.0},
            )
    if folder.is_symlink():
        await asyncio.to_thread(remove_link, folder)
        services.log("removed", model=name, bytes=0)
        return {"removed": True, "bytes": 0}
    job = {"task": "remove", "folder": str(folder), "prompts_dir": str(services.paths.prompts_dir)}
    removed = await services.hub.run(job, lambda progress: None)
    services.log("removed", model=name, bytes=removed["bytes"])
    return removed


async def _load(services: Services, request: RequestInFlight, params: Params) -> Answer:
    ref = await services.models.find(services.catalog, params)
    asked = {"keep_alive_s": params["keep_alive_s"], "pin": params["pin"]}
    return await services.supervisor.call("load", {"model": ref.to_map(), **asked})


async def _unload(services: Services, request: RequestInFlight, params: Params) -> Answer:
    loaded = {str(one["model"]): str(one.get("path")) for one in services.supervisor.loaded_models}
    if params["all"]:
        return await unload_all(services)
    target = await asyncio.to_thread(services.catalog.loaded_as, params["model"], loaded)
    if not services.supervisor.running:
        return {"unloaded": False, "pending_requests": 0, "models": []}
    return await services.supervisor.call("unload", target.to_map())


async def _ps(services: Services, request: RequestInFlight, params: Params) -> Answer:
    running = services.supervisor.running
    answer = await services.supervisor.call("ps", {}) if running else {"models": []}
    return {**answer, "evicted": [*services.supervisor.evicted]}


async def unload_all(services: Services) -> Any:
    """Answer `unload` with `all`: unload every model."""
    if not services.supervisor.running:
        return {"unloaded": False, "pending_requests": 0, "models": []}
    return await services.supervisor.call("unload", {"name": None, "path": None, "under": "/"})


async def _default(services: Services, request: RequestInFlight, params: Params) -> Any:
    if params["model"] is None:
        default = await asyncio.to_thread(
            _full_name, services.catalog, services.config.default_model
        )
        return {"default": default, "in_effect": default}
    # The default must be loadable. Its full name is stored, because a short one may later refer to
    # another model.
    name = (await services.models.find(services.catalog, params)).name
    async with services.models.naming:
        await _edit(services, "", {"default_model": name})
        if not os.environ.get(DEFAULT_VARIABLE):
            services.configuration.replace(replace(services.config, default_model=name))
        return {"default": name, "in_effect": services.config.default_model}


async def _alias(services: Services, request: RequestInFlight, params: Params) -> Any:
    alias, model = params["alias"], params["model"]
    if model is not None:
        await services.models.find(services.catalog, {"model": model})
    async with services.models.naming:
        if model is not None:
            _check_loop({**services.config.aliases, alias: model}, alias)
        elif alias not in services.config.aliases:
            raise InvalidParams(
                "alias", f"there is no alias {alias!r}", hint=_alias_hint(services, alias)
            )
        settings = await _edit(services, "aliases", {alias: model})
        # Read from the file, because another program may have added aliases.
        services.configuration.replace(replace(services.config, aliases=settings["aliases"]))
    return {"alias": alias, "model": model}


def _alias_hint(services: Services, alias: str) -> str:
    near = names.nearest(alias, services.config.aliases)
    return f"Did you mean {' or '.join(near)}?" if near else "List the aliases: mlx models alias"


def _check_loop(aliases: dict[str, str], start: str) -> None:
    name = aliases[start]
    while name in aliases:
        if name == start:
            raise InvalidParams("model", "would refer to the alias itself")
        name = aliases[name]


async def _edit(services: Services, table: str, entries: dict[str, str | None]) -> dict[str, Any]:
    return await asyncio.to_thread(edit_config, services.paths.config_file, table, entries)


def _full_name(catalog: Catalog, name: str) -> str:
    """Return the full name of a model.

    The name of a model that is not on this machine is unchanged.
    """
    try:
        return catalog.show(name).name
    except ModelNotFound:
        return name


HANDLERS: dict[str, Handler] = {
    "load": _load,
    "unload": _unload,
    "ps": _ps,
    "models.list": _list,
    "models.show": _show,
    "models.pull": _pull,
    "models.convert": _convert,
    "models.import": _import,
    "models.search": _search,
    "models.remove": _remove,
    "models.default": _default,
    "models.alias": _alias,
}
