"""Errors of the bridge itself, and the HTTP status and headers of every error."""

from __future__ import annotations

import math

from mlxd.protocol.errors import InvalidParams, MlxdError

DOCS = "https://github.com/mlxd/mlxd/blob/main/docs/http.md"


class BadRequest(MlxdError):
    """The bytes are not an HTTP request that the bridge can read."""

    code = "invalid_request"
    default_hint = f"See the supported requests: {DOCS}"


class NotFound(MlxdError):
    """No handler has this path."""

    code = "not_found"
    default_hint = f"See the supported paths: {DOCS}"


class WrongMethod(MlxdError):
    """The path exists, but not with this HTTP method."""

    code = "method_not_allowed"
    default_hint = f"See the supported paths: {DOCS}"


class Unauthorized(MlxdError):
    """The API key is missing or wrong."""

    code = "unauthorized"
    default_hint = "Show the key: mlxd http --show-key"


class Forbidden(MlxdError):
    """The gate refuses the caller: another user, an unknown host name or a foreign web page."""

    code = "forbidden"
    default_hint = f"See what is allowed: {DOCS}"


class BodyTooLarge(MlxdError):
    """The request's body exceeds the limit."""

    code = "body_too_large"
    default_hint = "Send a smaller request."


class SlowSender(MlxdError):
    """The request's body did not arrive in time."""

    code = "slow_sender"
    default_hint = "Send the whole request at once."


class TooManyBodies(MlxdError):
    """All request bodies together exceed the limit."""

    code = "overloaded"
    default_hint = "Try again in a moment."


class Unsupported(MlxdError):
    """The dialect has this function, but mlxd does not."""

    code = "unsupported"
    default_hint = f"See the supported functions: {DOCS}"


STATUS: dict[str, int] = {
    "parse_error": 400,
    "invalid_request": 400,
    "invalid_params": 400,
    "context_overflow": 400,
    "constraint_invalid": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "permission_denied": 403,
    "model_not_found": 404,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_sender": 408,
    "superseded": 409,
    "body_too_large": 413,
    "cancelled": 499,  # nginx's number: the client closed the request
    "internal": 500,
    "model_load_failed": 500,
    "out_of_memory": 500,
    "unsupported": 501,
    "method_not_found": 501,
    "hub_unreachable": 502,
    "overloaded": 503,
    "engine_died": 503,
    "shutting_down": 503,
    "daemon_unreachable": 503,
    "connection_closed": 503,
    "start_failed": 503,
    "deadline_exceeded": 504,
    "request_timeout": 504,
}
"""Maps an error code to its HTTP status. Others are 500."""

RETRY_AFTER_S = 1


def status_of(error: MlxdError) -> int:
    """Return the HTTP status of an error."""
    return STATUS.get(error.code, 500)


def headers_of(error: MlxdError) -> dict[str, str]:
    """Return the headers that tell client libraries whether and when to retry."""
    status = status_of(error)
    if status == 503:
        return {"retry-after": str(math.ceil(_retry_after_s(error)))}
    if status == 401:
        return {"www-authenticate": 'Bearer realm="mlxd"'}
    if status in (500, 501):
        return {"x-should-retry": "false"}
    return {}


def _retry_after_s(error: MlxdError) -> float:
    seconds = error.data.get("retry_after_s")
    return seconds if isinstance(seconds, (int, float)) and seconds > 0 else RETRY_AFTER_S


def text_of(error: MlxdError) -> str:
    """Return the message and the next step as one text."""
    return f"{error.message} {error.hint}".strip()


def invalid(param: str, problem: str) -> InvalidParams:
    """Return the error for a field of a request body."""
    return InvalidParams(param, problem, hint=f"See the supported fields: {DOCS}")
