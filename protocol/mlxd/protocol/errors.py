"""The errors of mlxd. Each class has a wire code, an exit code, and whether a retry may help."""

from __future__ import annotations

from typing import Any, ClassVar

ErrorMap = dict[str, Any]

SPEC_HINT = "See the protocol: https://github.com/mlxd/mlxd/blob/main/protocol/SPEC.md"
"""A web address, because an installation does not include the documentation."""


class MlxdError(Exception):
    """The base class of every error that mlxd reports to a user.

    `message` states what happened, `hint` states the next step, and `data` has details such as
    numbers. `meaning` describes the class in the generated tables of the documentation.
    """

    code: ClassVar[str] = "internal"
    meaning: ClassVar[str] = "A bug in mlxd."
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    json_rpc_code: ClassVar[int] = -32603
    default_hint: ClassVar[str] = "Read the log: mlxd logs -n 50"

    def __init__(self, message: str, *, hint: str = "", data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.data: dict[str, Any] = data or {}

    def to_map(self) -> ErrorMap:
        """Return the error map `{code, message, hint, retryable, data}` that goes over the wire."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "data": self.data,
        }


class ParseError(MlxdError):
    """The bytes are not a message. The daemon closes the connection after it sent this error."""

    code = "parse_error"
    meaning = "The message is too large, or it is neither MessagePack nor a line of JSON."
    exit_code = 6
    json_rpc_code = -32700
    default_hint = f"Send MessagePack-RPC arrays or one JSON-RPC object per line. {SPEC_HINT}"


class InvalidRequest(MlxdError):
    """The message is well formed but not a valid request. The connection stays open."""

    code = "invalid_request"
    meaning = "The message is well formed but is not a valid request."
    exit_code = 6
    json_rpc_code = -32600
    default_hint = SPEC_HINT


class MethodNotFound(MlxdError):
    """The daemon has no method of that name, for instance because it is older than the client."""

    code = "method_not_found"
    meaning = "The daemon has no such method. It may be older than the client."
    exit_code = 6
    json_rpc_code = -32601
    default_hint = "List the methods that this daemon has: mlx rpc hello"


class InvalidParams(MlxdError):
    """A parameter is unknown, missing, of the wrong type or out of range. `data.param` names it."""

    code = "invalid_params"
    meaning = "An option or parameter is unknown, missing, of the wrong type or out of range."
    exit_code = 6
    json_rpc_code = -32602
    default_hint = SPEC_HINT

    def __init__(self, param: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{param}: {problem}" if param else problem, hint=hint)
        self.data = {"param": param}


class ModelNotFound(MlxdError):
    """No model matches the name, on this machine or (for `models.pull`) on the hub."""

    code = "model_not_found"
    meaning = "No model with that name exists on this machine, or on the hub."
    exit_code = 4
    json_rpc_code = -32001
    default_hint = "Download it with `mlx models pull`, or list the local models: mlx models list"


class ModelLoadFailed(MlxdError):
    """The model's folder exists but cannot be loaded. The message names the file and the reason."""

    code = "model_load_failed"
    meaning = (
        "The model exists but cannot be loaded: it is incomplete, in another format, or not "
        "supported by mlx-lm."
    )
    exit_code = 5
    json_rpc_code = -32002
    default_hint = "Check that the folder contains a complete MLX model: mlxd doctor"


class OutOfMemory(MlxdError):
    """The model or the request does not fit into memory. The message has the numbers."""

    code = "out_of_memory"
    meaning = (
        "The model or request does not fit into the memory that mlxd may use. The message has the "
        "numbers."
    )
    exit_code = 5
    json_rpc_code = -32003
    default_hint = "Use a smaller or more quantised model, or free memory: mlx unload --all"


class ContextOverflow(MlxdError):
    """The prompt exceeds the model's context. `data` has `prompt_tokens` and `context_tokens`."""

    code = "context_overflow"
    meaning = "The prompt is longer than the model's context. mlxd never truncates a prompt."
    exit_code = 6
    json_rpc_code = -32004
    default_hint = (
        "Shorten the prompt, or use a model with a longer context. List the models: mlx models list"
    )


class ConstraintInvalid(MlxdError):
    """The schema, regular expression or grammar is invalid or uses an unsupported feature."""

    code = "constraint_invalid"
    meaning = "The schema, regular expression or grammar is invalid or not supported."
    exit_code = 6
    json_rpc_code = -32005
    default_hint = (
        "Remove or simplify the part that the message names. List the options: mlx ask --help"
    )


class Overloaded(MlxdError):
    """A queue is full. `data.retry_after_s` is the number of seconds to wait before a retry."""

    code = "overloaded"
    meaning = "Too many requests, connections or downloads are in progress."
    exit_code = 7
    retryable = True
    json_rpc_code = -32006
    default_hint = "Try again in a moment. See what is running: mlxd status"


class DeadlineExceeded(MlxdError):
    """The request did not finish within its `deadline_s`. The engine stopped it."""

    code = "deadline_exceeded"
    meaning = "The request did not finish within `--timeout`."
    exit_code = 7
    retryable = True
    json_rpc_code = -32007
    default_hint = (
        "Allow more time with --timeout, or fewer tokens with --max-tokens. See what is running: "
        "mlxd status"
    )


class Superseded(MlxdError):
    """A newer request with the same `supersede` key replaced this one."""

    code = "superseded"
    meaning = "A newer request with the same `supersede` key replaced this one."
    exit_code = 7
    json_rpc_code = -32008
    default_hint = (
        "Wait for the newer request, or use another key. See what is running: mlxd status"
    )


class Cancelled(MlxdError):
    """The caller cancelled the request. `data.usage` has the token counts up to then."""

    code = "cancelled"
    meaning = "The caller stopped the request, for example with Ctrl-C."
    exit_code = 130
    json_rpc_code = -32009
    default_hint = "Repeat the request when you are ready. See what is running: mlxd status"


class EngineDied(MlxdError):
    """The engine process ended during the request, which had output or is the likely cause."""

    code = "engine_died"
    meaning = "The engine process ended before the answer was complete."
    exit_code = 8
    retryable = True
    json_rpc_code = -32010
    default_hint = "The engine restarts by itself: try again. If it happens again: mlxd logs -n 50"


class ShuttingDown(MlxdError):
    """The daemon is stopping. It finishes running requests and accepts no new ones."""

    code = "shutting_down"
    meaning = "The daemon is stopping and accepts no new requests."
    exit_code = 7
    retryable = True
    json_rpc_code = -32011
    default_hint = "Start the daemon again: mlxd start"


class PermissionDenied(MlxdError):
    """The request needs a permission: remote code, a gated model, or another user's socket."""

    code = "permission_denied"
    meaning = (
        "Not permitted: the model runs its own code, its terms were not accepted, or the socket "
        "belongs to another user."
    )
    exit_code = 6
    json_rpc_code = -32012
    default_hint = (
        "Allow the model's code in config.toml, or accept its terms on its hub page. Show where "
        "config.toml is: mlxd doctor --all"
    )


class HubUnreachable(MlxdError):
    """The hub did not answer, or a download was interrupted. The downloaded part is kept."""

    code = "hub_unreachable"
    meaning = "The Hugging Face hub cannot be reached, or a download was interrupted."
    exit_code = 7
    retryable = True
    json_rpc_code = -32013
    default_hint = (
        "Check the network and HF_ENDPOINT, then run the command again. Test the address: "
        "curl -sI ${HF_ENDPOINT:-https://huggingface.co}"
    )


class Internal(MlxdError):
    """A bug in mlxd. The log has the details."""


class DaemonUnreachable(MlxdError):
    """No daemon listens at the socket. Raised by clients only."""

    code = "daemon_unreachable"
    meaning = "No daemon is running, or it does not answer."
    exit_code = 3
    retryable = True
    default_hint = "Start it: mlxd start"


class ConnectionClosed(MlxdError):
    """The connection ended before the answer was complete. Raised by clients only.

    `reason` states why it ended. If `may_have_been_executed` is False, the daemon cannot have read
    the whole request, and sending it again is safe.
    """

    code = "connection_closed"
    meaning = "The daemon or the client closed the connection before the answer was complete."
    exit_code = 8
    retryable = True
    default_hint = "Ask again. If it happens again: mlxd logs -n 50"

    def __init__(
        self, message: str, *, reason: str, may_have_been_executed: bool, hint: str = ""
    ) -> None:
        data = {"reason": reason, "may_have_been_executed": may_have_been_executed}
        super().__init__(message, hint=hint, data=data)

    @property
    def reason(self) -> str:
        """Why the connection ended, as a sentence."""
        return str(self.data["reason"])

    @property
    def may_have_been_executed(self) -> bool:
        """Whether the daemon may have read the whole request."""
        return bool(self.data["may_have_been_executed"])


class RequestTimeout(MlxdError):
    """A limit of the client's `Timeouts` passed, and the client cancelled the request.

    `data.limit` names the limit and `data.seconds` is its value. Raised by clients only. The
    daemon's own limit, `deadline_s`, raises `DeadlineExceeded`.
    """

    code = "request_timeout"
    meaning = "A time limit of the client passed, and the client cancelled the request."
    exit_code = 7
    retryable = True
    default_hint = "See what the daemon is doing: mlxd status"


CLIENT_ERRORS: tuple[type[MlxdError], ...] = (DaemonUnreachable, ConnectionClosed, RequestTimeout)
"""Errors that clients raise. The daemon never sends them."""

ERRORS: dict[str, type[MlxdError]] = {
    error.code: error
    for error in (
        ParseError,
        InvalidRequest,
        MethodNotFound,
        InvalidParams,
        ModelNotFound,
        ModelLoadFailed,
        OutOfMemory,
        ContextOverflow,
        ConstraintInvalid,
        Overloaded,
        DeadlineExceeded,
        Superseded,
        Cancelled,
        EngineDied,
        ShuttingDown,
        PermissionDenied,
        HubUnreachable,
        Internal,
    )
}
"""Maps a wire code to its class."""

EXIT_INTERRUPTED = 130
EXIT_USAGE = 2
EXITS: dict[int, str] = {
    0: "success",
    1: "unexpected error",
    EXIT_USAGE: "usage error",
    3: "daemon unreachable",
    4: "model not found",
    5: "model could not be loaded",
    6: "request refused (parameters, context, constraint)",
    7: "overloaded, offline or timed out (a retry may help)",
    8: "incomplete answer (the engine or connection failed, or a constrained answer was truncated)",
    EXIT_INTERRUPTED: "interrupted",
}
"""Maps an exit code of `mlx` to its meaning."""


def exit_codes() -> str:
    """Return all exit codes in one line, for the documentation."""
    return " · ".join(f"{code} {meaning}" for code, meaning in EXITS.items())


def error_from_map(raw: ErrorMap) -> MlxdError:
    """Return the error that a wire map describes. An unknown code becomes a plain `MlxdError`."""
    kind = ERRORS.get(str(raw.get("code")), MlxdError)
    # Not `kind(...)`: some classes, such as InvalidParams, take other arguments.
    error = kind.__new__(kind)
    MlxdError.__init__(
        error,
        str(raw.get("message", "")),
        hint=str(raw.get("hint") or ""),
        data=raw.get("data") if isinstance(raw.get("data"), dict) else None,
    )
    return error
