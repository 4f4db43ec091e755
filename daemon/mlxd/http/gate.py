"""Decides before routing whether a request is served: host name, web page and API key. Pure.

`Host` is checked because a web page can point a name of its own at 127.0.0.1 (DNS rebinding).
`Origin` is checked because every web page may send requests to localhost.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlxd.http.problems import Forbidden, Unauthorized
from mlxd.protocol.errors import MlxdError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
PREFLIGHT_AGE_S = 600
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)\.?(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Gate:
    """The rules. `key` is None where no key is required."""

    hosts: frozenset[str] = LOOPBACK_NAMES
    origins: frozenset[str] = frozenset()
    key: str | None = None

    def refusal(self, method: str, headers: Mapping[str, str]) -> MlxdError | None:
        """Return why a request is refused, or None. Header names are in lower case."""
        host = headers.get("host", "")
        if host_name(host) not in self.hosts:
            return Forbidden(
                f"The host name {host!r} is not served.",
                hint="Use http://localhost, or allow the name: mlxd http --host-name NAME",
            )
        if not self.allows_page(headers):
            return Forbidden(
                f"Web pages of {headers.get('origin', 'other sites')} may not use mlxd.",
                hint="Allow the page: mlxd http --origin ORIGIN",
            )
        # Browsers send preflights without the key. They contain and return nothing.
        if self.key is None or is_preflight(method, headers):
            return None
        if not self._has_key(headers):
            return Unauthorized("The API key is missing or wrong.")
        return None

    def allows_page(self, headers: Mapping[str, str]) -> bool:
        """Return whether the page that sent the request is allowed. Programs are not pages."""
        origin = headers.get("origin")
        if origin is None:
            return headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        host = headers.get("host", "").lower()
        return origin.lower() == f"http://{host}" or origin.lower() in self.origins

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        assert self.key is not None
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode(), self.key.encode())


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Return whether a request is a CORS preflight."""
    return method == "OPTIONS" and {"origin", "access-control-request-method"} <= headers.keys()


def host_name(host: str) -> str:
    """Return the name in a `Host` header in lower case, without the port. "" if it is invalid."""
    match = _HOST.fullmatch(host.strip().lower())
    return match["name"] if match else ""


def cors_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of an answer for a web page that is allowed."""
    origin = headers.get("origin")
    if origin is None:
        return {}
    return {
        "access-control-allow-origin": origin,
        "access-control-expose-headers": "x-mlxd-notes, x-request-id, retry-after",
        "vary": "origin",
    }


def preflight_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that answer a preflight of an allowed page."""
    answer = {
        **cors_headers(headers),
        "access-control-allow-methods": headers.get("access-control-request-method", "GET"),
        "access-control-max-age": str(PREFLIGHT_AGE_S),
    }
    if asked := headers.get("access-control-request-headers"):
        answer["access-control-allow-headers"] = asked
    if headers.get("access-control-request-private-network") == "true":
        answer["access-control-allow-private-network"] = "true"
    return answer
