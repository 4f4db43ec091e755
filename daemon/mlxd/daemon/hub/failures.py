"""Translates what huggingface_hub raises into errors of the protocol."""

from __future__ import annotations

import re

import huggingface_hub
from huggingface_hub import errors as hub_errors

from mlxd.daemon.shortages import is_disk_full
from mlxd.protocol.errors import (
    HubUnreachable,
    MlxdError,
    ModelLoadFailed,
    ModelNotFound,
    PermissionDenied,
)

TOO_MANY_REQUESTS = 429
SERVER_ERRORS = 500
ERROR_NUMBER = re.compile(r"^\[Errno -?\d+\] ")


def translated(exc: Exception, repo: str, revision: str) -> MlxdError:
    """Return the error for a download of `repo` that failed."""
    place = f"{huggingface_hub.constants.ENDPOINT}/{repo}"
    if isinstance(exc, hub_errors.GatedRepoError):
        return PermissionDenied(
            f"{repo} is available only to users who accepted its terms.",
            hint=f"Accept them at {place}, then: hf auth login",
        )
    if isinstance(exc, hub_errors.RepositoryNotFoundError):
        return ModelNotFound(
            f"The hub has no model {repo!r}, or it is private.",
            hint=f"Check the name at {place}. For a private one: hf auth login",
            data={"nearest": []},
        )
    if isinstance(exc, hub_errors.RevisionNotFoundError):
        return ModelNotFound(
            f"{repo} has no revision {revision!r}.", hint=f"See them at {place}/tree/main"
        )
    again = f"mlx models pull {repo}"
    if isinstance(exc, hub_errors.OfflineModeIsEnabled):
        return offline(again)
    if is_connection_failure(exc):
        return HubUnreachable(
            f"The download of {repo} was interrupted: {described(exc)}",
            hint=f"Complete parts are kept. Resume: {again}",
            data={"model": repo},
        )
    resume = "Free some space, then resume" if is_disk_full(exc) else "Resume"
    return ModelLoadFailed(
        f"The download of {repo} failed: {described(exc)}",
        hint=f"Complete parts are kept. {resume}: {again}",
        data={"model": repo},
    )


def offline(command: str) -> HubUnreachable:
    """Return the error for HF_HUB_OFFLINE."""
    return HubUnreachable(
        "HF_HUB_OFFLINE is set, so the hub is not contacted.",
        hint=f"Unset it, restart the daemon (mlxd restart), then: {command}",
    )


def is_connection_failure(exc: BaseException) -> bool:
    """Return whether the hub did not answer, or asked to try again later."""
    if isinstance(exc, hub_errors.HfHubHTTPError):
        status = exc.response.status_code
        return bool(status == TOO_MANY_REQUESTS or status >= SERVER_ERRORS)
    if isinstance(exc, hub_errors.LocalEntryNotFoundError):
        return True  # neither on the disk nor reachable
    # The base class of the HTTP library, which every version of huggingface_hub exports by this
    # name.
    return isinstance(exc, (hub_errors.HTTPError, ConnectionError, TimeoutError))


def described(exc: BaseException) -> str:
    """Return the message of an error without its number, or the name of its class."""
    return ERROR_NUMBER.sub("", str(exc)) or type(exc).__name__
