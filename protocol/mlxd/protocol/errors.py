"""One error root; every class has its wire code, its exit code and whether a retry may help."""

from __future__ import annotations

from typing import Any, ClassVar

ErrorMap = dict[str, Any]

SPEC_HINT = "See the protocol: https://github.com/mlxd/mlxd/blob/main/protocol/SPEC.md"
"""An address, because an installation has no documents."""


class MlxdError(Exception):
    """The root of everything that mlxd reports to a user.

    `message` says what happened, `hint` what to do next, `data` carries the numbers. `meaning` is
    for the tables of the documentation, which are made from these classes.
    """

    code: ClassVar[str] = "internal"
    meaning: ClassVar[str] = "A mistake of mlxd itself."
    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    json_rpc_code: ClassVar[int] = -32603
    default_hint: ClassVar[str] = "Look into the log: mlxd logs -n 50"

    def __init__(self, message: str, *, hint: str = "", data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint
        self.data: dict[str, Any] = data or {}

    def to_map(self) -> ErrorMap:
        """Return the error as it goes over the wire."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retryable": self.retryable,
            "data": self.data,
        }


class ParseError(MlxdError):
    code = "parse_error"
    meaning = "A message is larger than the limit, or is neither MessagePack nor a line of JSON."
    exit_code = 6
    json_rpc_code = -32700
    default_hint = f"Send MessagePack-RPC arrays or one JSON-RPC object per line. {SPEC_HINT}"


class InvalidRequest(MlxdError):
    code = "invalid_request"
    meaning = "A message that can be read, but is no request."
    exit_code = 6
    json_rpc_code = -32600
    default_hint = SPEC_HINT


class MethodNotFound(MlxdError):
    code = "method_not_found"
    meaning = "The daemon knows no method of that name; an older one may run."
    exit_code = 6
    json_rpc_code = -32601
    default_hint = "List the methods: mlx rpc hello"


class InvalidParams(MlxdError):
    """A parameter is unknown, missing, of the wrong type or out of range. `data.param` names it."""

    code = "invalid_params"
    meaning = "An option or parameter is unknown, missing, of the wrong kind or out of range."
    exit_code = 6
    json_rpc_code = -32602
    default_hint = SPEC_HINT

    def __init__(self, param: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{param}: {problem}" if param else problem, hint=hint)
        self.data = {"param": param}


class ModelNotFound(MlxdError):
    code = "model_not_found"
    meaning = "No model of that name is on this machine (or on the hub)."
    exit_code = 4
    json_rpc_code = -32001
    default_hint = "See what is here: mlx models list. Get one: mlx models pull NAME"


class ModelLoadFailed(MlxdError):
    code = "model_load_failed"
    meaning = (
        "The model is there but cannot be used: incomplete, in another format, or "
        "unknown to mlx-lm."
    )
    exit_code = 5
    json_rpc_code = -32002
    default_hint = "Check that the folder holds a complete MLX model: mlxd doctor"


class OutOfMemory(MlxdError):
    code = "out_of_memory"
    meaning = (
        "The model does not fit into the memory that mlxd may use; the message has the numbers."
    )
    exit_code = 5
    json_rpc_code = -32003
    default_hint = "Unload a model (mlx unload NAME), or take a smaller or more quantised one."


class ContextOverflow(MlxdError):
    """The prompt does not fit. `data` has `prompt_tokens` and `context_tokens`."""

    code = "context_overflow"
    meaning = "The prompt is longer than what the model can read; it is never cut."
    exit_code = 6
    json_rpc_code = -32004
    default_hint = "Shorten the prompt, or choose a model with a longer context."


class ConstraintInvalid(MlxdError):
    code = "constraint_invalid"
    meaning = "The schema, regular expression or grammar cannot be followed."
    exit_code = 6
    json_rpc_code = -32005
    default_hint = (
        "Simplify the schema, regex or grammar; the message names the part that is refused."
    )


class Overloaded(MlxdError):
    """A queue is full. `data.retry_after_s` says when to try again."""

    code = "overloaded"
    meaning = "Too many requests are waiting."
    exit_code = 7
    retryable = True
    json_rpc_code = -32006
    default_hint = "Try again in a moment."


class DeadlineExceeded(MlxdError):
    code = "deadline_exceeded"
    meaning = "The time that `--timeout` gave is over."
    exit_code = 7
    retryable = True
    json_rpc_code = -32007
    default_hint = "Allow more time (--timeout), or ask for fewer tokens."


class Superseded(MlxdError):
    code = "superseded"
    meaning = "A newer request with the same key took its place."
    exit_code = 7
    json_rpc_code = -32008
    default_hint = "A newer request with the same supersede key has taken its place."


class Cancelled(MlxdError):
    """The caller cancelled. `data.usage` counts what was done until then."""

    code = "cancelled"
    meaning = "Somebody stopped the request, for instance with Ctrl-C."
    exit_code = 130
    json_rpc_code = -32009
    default_hint = "Ask again when you are ready."


class EngineDied(MlxdError):
    code = "engine_died"
    meaning = "The process that computes ended in the middle of an answer."
    exit_code = 8
    retryable = True
    json_rpc_code = -32010
    default_hint = "The engine is being restarted: ask again. If it dies again: mlxd logs -n 50"


class ShuttingDown(MlxdError):
    code = "shutting_down"
    meaning = "The daemon is about to end and takes nothing new."
    exit_code = 7
    retryable = True
    json_rpc_code = -32011
    default_hint = "Start it again: mlxd start"


class PermissionDenied(MlxdError):
    code = "permission_denied"
    meaning = "Not allowed: code of a model, or a model whose terms were not accepted."
    exit_code = 6
    json_rpc_code = -32012
    default_hint = "Allow the model's code in config.toml, or accept its terms on its page."


class HubUnreachable(MlxdError):
    """The hub gave no answer, or not all of one. What was downloaded so far is kept."""

    code = "hub_unreachable"
    meaning = "The Hugging Face hub cannot be reached, or a download was interrupted."
    exit_code = 7
    retryable = True
    json_rpc_code = -32013
    default_hint = "Check the network and HF_ENDPOINT, then run the same command again."


class Internal(MlxdError):
    pass


class DaemonUnreachable(MlxdError):
    """Raised by clients only: it never crosses the wire."""

    code = "daemon_unreachable"
    meaning = "No daemon runs, or it does not answer."
    exit_code = 3
    retryable = True
    default_hint = "Start it: mlxd start"


class ConnectionClosed(MlxdError):
    """The connection ended before the answer was complete. Raised by clients only.

    `reason` says why it ended. `may_have_been_executed` is False where the daemon cannot have read
    the whole request, so that sending it again is safe.
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
        """Return why the connection ended."""
        return str(self.data["reason"])

    @property
    def may_have_been_executed(self) -> bool:
        """Return whether the daemon may have read the whole request."""
        return bool(self.data["may_have_been_executed"])


class RequestTimeout(MlxdError):
    """A limit of the client's `Timeouts` passed; the request was cancelled. `data.limit` names it.

    Raised by clients only. The daemon's own limit, `deadline_s`, is `DeadlineExceeded`.
    """

    code = "request_timeout"
    meaning = "A time limit of the client passed; the daemon was told to stop the request."
    exit_code = 7
    retryable = True
    default_hint = "See what the daemon does: mlxd status, mlxd logs -n 50"


CLIENT_ERRORS: tuple[type[MlxdError], ...] = (DaemonUnreachable, ConnectionClosed, RequestTimeout)
"""Errors that clients raise; they never cross the wire."""

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
"""Wire code to class."""

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
"""What an exit code of `mlx` means."""


def exit_codes() -> str:
    """Return the exit codes in one line, as every page has them."""
    return " · ".join(f"{code} {meaning}" for code, meaning in EXITS.items())


def error_from_map(raw: ErrorMap) -> MlxdError:
    """Rebuild an error that came over the wire. An unknown code becomes a plain `MlxdError`.

    The class may take other arguments (`InvalidParams`), so only the fields are restored.
    """
    kind = ERRORS.get(str(raw.get("code")), MlxdError)
    error = kind.__new__(kind)
    MlxdError.__init__(
        error,
        str(raw.get("message", "")),
        hint=str(raw.get("hint") or ""),
        data=raw.get("data") if isinstance(raw.get("data"), dict) else None,
    )
    return error
