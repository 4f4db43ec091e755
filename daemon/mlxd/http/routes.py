"""Finds the handler of a path. A pattern may end in `{id}`, which matches slashes too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mlxd.http.daemon import Daemon
from mlxd.http.exchange import Exchange
from mlxd.http.problems import NotFound, WrongMethod
from mlxd.protocol.errors import MlxdError


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a handler gets it. `id` is the last part of the path, or empty."""

    exchange: Exchange
    daemon: Daemon
    body: dict[str, Any]
    id: str = ""


Handler = Callable[[Call], Awaitable[None]]
ErrorBody = Callable[[MlxdError], tuple[int, dict[str, Any]]]
"""Returns the status and the body that report an error in a dialect."""


@dataclass(frozen=True, slots=True)
class Route:
    """One path with its HTTP methods, handler, and the form of its errors."""

    methods: tuple[str, ...]
    pattern: str
    handler: Handler
    error: ErrorBody
    reads_body: bool = True


class Router:
    """A table of routes. Two routes with the same method and pattern are a mistake."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact: dict[str, list[Route]] = {}
        self._prefixes: dict[str, list[Route]] = {}
        for route in routes:
            prefix, is_prefix, _ = route.pattern.partition("{id}")
            table = self._prefixes if is_prefix else self._exact
            others = table.setdefault(prefix, [])
            assert not any({*route.methods} & {*other.methods} for other in others), route.pattern
            others.append(route)

    def find(self, method: str, path: str) -> tuple[Route, str]:
        """Return the route and the id in the path.

        Raises:
            NotFound: no route has the path.
            WrongMethod: the path has no such method.
        """
        found, rest = self._exact.get(path, []), ""
        if not found:
            # The longest prefix wins.
            for prefix in sorted(self._prefixes, key=len, reverse=True):
                if path.startswith(prefix) and len(path) > len(prefix):
                    found, rest = self._prefixes[prefix], path[len(prefix) :]
                    break
        if not found:
            raise NotFound(f"The path {path[:200]} does not exist.")
        for route in found:
            if method in route.methods or (method == "HEAD" and "GET" in route.methods):
                return route, rest
        raise WrongMethod(f"The path {path[:200]} has no method {method}.")
