"""The client library: `from mlxd.client import Client` (or `AsyncClient`).

Names are imported at their first use, so that the blocking client does not load asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlxd.client.aio import AsyncClient, AsyncStream
    from mlxd.client.events import (
        Delta,
        Event,
        Loading,
        Prefill,
        Progress,
        Queued,
        ToolCalled,
    )
    from mlxd.client.results import (
        Applied,
        Choice,
        Completion,
        Conversation,
        DefaultModel,
        Hello,
        HubModel,
        HubModels,
        Import,
        ImportedModel,
        Loaded,
        LoadedModel,
        Model,
        ModelList,
        Prefilled,
        Record,
        Removed,
        Requests,
        Status,
        Timing,
        ToolCall,
        Turn,
        Unloaded,
        Usage,
    )
    from mlxd.client.sync import Client, Stream
    from mlxd.client.timeouts import Timeouts
    from mlxd.protocol.errors import (
        Cancelled,
        ConnectionClosed,
        ConstraintInvalid,
        ContextOverflow,
        DaemonUnreachable,
        DeadlineExceeded,
        EngineDied,
        HubUnreachable,
        InvalidParams,
        InvalidRequest,
        MethodNotFound,
        MlxdError,
        ModelLoadFailed,
        ModelNotFound,
        OutOfMemory,
        Overloaded,
        ParseError,
        PermissionDenied,
        RequestTimeout,
        ShuttingDown,
        Superseded,
    )

_MODULES = {
    "mlxd.client.sync": ("Client", "Stream"),
    "mlxd.client.aio": ("AsyncClient", "AsyncStream"),
    "mlxd.client.timeouts": ("Timeouts",),
    "mlxd.client.results": (
        "Applied", "Choice", "Completion", "Conversation", "DefaultModel", "Hello", "HubModel",
        "HubModels", "Import", "ImportedModel", "Loaded",
        "LoadedModel", "Model", "ModelList", "Prefilled", "Record", "Removed", "Requests",
        "Status", "Timing", "ToolCall", "Turn", "Unloaded", "Usage",
    ),
    "mlxd.client.events": (
        "Delta", "Event", "Loading", "Prefill", "Progress", "Queued", "ToolCalled",
    ),
    "mlxd.protocol.errors": (
        "Cancelled", "ConnectionClosed", "ConstraintInvalid", "ContextOverflow",
        "DaemonUnreachable", "DeadlineExceeded", "EngineDied", "HubUnreachable", "InvalidParams",
        "InvalidRequest", "MethodNotFound", "MlxdError", "ModelLoadFailed", "ModelNotFound",
        "OutOfMemory", "Overloaded", "ParseError", "PermissionDenied", "RequestTimeout",
        "ShuttingDown", "Superseded",
    ),
}  # fmt: skip

PLACES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022
    "AsyncClient", "AsyncStream", "Client", "Stream", "Timeouts",
    "Applied", "Choice", "Completion", "Conversation", "DefaultModel", "Hello", "HubModel",
    "HubModels", "Import", "ImportedModel", "Loaded",
    "LoadedModel", "Model", "ModelList", "Prefilled", "Record", "Removed", "Requests", "Status",
    "Timing", "ToolCall", "Turn", "Unloaded", "Usage",
    "Delta", "Event", "Loading", "Prefill", "Progress", "Queued", "ToolCalled",
    "Cancelled", "ConnectionClosed", "ConstraintInvalid", "ContextOverflow", "DaemonUnreachable",
    "DeadlineExceeded", "EngineDied", "HubUnreachable", "InvalidParams", "InvalidRequest",
    "MethodNotFound", "MlxdError", "ModelLoadFailed", "ModelNotFound", "OutOfMemory",
    "Overloaded", "ParseError", "PermissionDenied", "RequestTimeout", "ShuttingDown", "Superseded",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
