"""The gate lets in programs of this machine and pages that were allowed, and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.http import gate as gates
from mlxd.http.gate import LOOPBACK_NAMES, Gate, host_name

OPEN = Gate()
LOCAL = {"host": "localhost:6593"}
NAMES = st.sampled_from(sorted(LOOPBACK_NAMES))
PORTS = st.integers(0, 65535)
TEXTS = st.text("localhst127.0:[]@ /-_%#?\\A\t", max_size=40)
"""Of the characters of the names that are served: others make a name no more similar."""


def code(gate: Gate, headers: dict[str, str], method: str = "POST") -> str | None:
    refusal = gate.refusal(method, headers)
    return None if refusal is None else refusal.code


@given(NAMES, PORTS, st.booleans(), st.booleans())
def test_the_names_of_this_machine_are_served(
    name: str, port: int, has_port: bool, upper: bool
) -> None:
    host = f"{name}:{port}" if has_port else name
    assert code(OPEN, {"host": host.upper() if upper else host}) is None


@given(TEXTS)
def test_no_other_host_name_is_served(host: str) -> None:
    refused = code(OPEN, {"host": host}) == "forbidden"
    assert refused == (host_name(host) not in LOOPBACK_NAMES)


@given(st.from_regex(r"[a-z0-9.-]{1,20}", fullmatch=True), NAMES, PORTS)
def test_a_name_that_only_contains_localhost_is_not_served(
    prefix: str, name: str, port: int
) -> None:
    bare = name.strip("[]")
    for host in (f"{prefix}.{bare}:{port}", f"{bare}.{prefix}.x:{port}", f"{bare}@{prefix}.x"):
        assert code(OPEN, {"host": host}) == "forbidden", host


@pytest.mark.parametrize("host", ["", " ", ":80", "localhost:", "localhost:80:80", "::1", "[::1"])
def test_an_empty_or_malformed_host_is_not_served(host: str) -> None:
    assert code(OPEN, {"host": host}) == "forbidden"


def test_a_request_without_a_host_is_not_served() -> None:
    assert code(OPEN, {}) == "forbidden"


def test_a_configured_host_is_served() -> None:
    gate = Gate(LOOPBACK_NAMES | {"box.tailnet.ts.net"})
    assert code(gate, {"host": "box.tailnet.ts.net"}) is None
    assert code(gate, {"host": "other.ts.net"}) == "forbidden"


@given(TEXTS)
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    assert code(OPEN, {**LOCAL, "origin": origin}) == "forbidden"
    assert code(OPEN, {**LOCAL, "origin": f"http://{origin}"}) == "forbidden"


@pytest.mark.parametrize(
    "origin",
    ["null", "", "https://localhost:6593", "http://localhost:1", "http://localhost:6593.evil.com"],
)
def test_an_origin_that_is_nearly_our_own_is_refused(origin: str) -> None:
    assert code(OPEN, {**LOCAL, "origin": origin}) == "forbidden"


def test_a_configured_origin_is_allowed_whatever_its_case() -> None:
    gate = Gate(origins=frozenset({"app://obsidian.md"}))
    assert code(gate, {**LOCAL, "origin": "app://Obsidian.md"}) is None
    assert code(gate, {**LOCAL, "origin": "app://obsidian.md.evil"}) == "forbidden"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_pages_send_without_an_origin_are_refused(site: str) -> None:
    assert code(OPEN, {**LOCAL, "sec-fetch-site": site}, "GET") == "forbidden"
    assert code(OPEN, {**LOCAL, "sec-fetch-site": "none"}, "GET") is None


# ---- the key

KEYED = Gate(key="k3y")


@pytest.mark.parametrize(
    "header",
    [{"authorization": "Bearer k3y"}, {"authorization": "bearer  k3y"}, {"x-api-key": "k3y"}],
)
def test_the_key_is_taken_from_both_headers(header: dict[str, str]) -> None:
    assert code(KEYED, {**LOCAL, **header}) is None


@given(st.text("k3y ä", max_size=5).filter(lambda one: one != "k3y"))
def test_a_wrong_key_is_refused(key: str) -> None:
    assert code(KEYED, {**LOCAL, "x-api-key": key}) == "unauthorized"
    assert code(KEYED, {**LOCAL, "authorization": f"Basic {key}"}) == "unauthorized"
    if key.strip() != "k3y":
        assert code(KEYED, {**LOCAL, "authorization": f"Bearer {key}"}) == "unauthorized"


def test_the_headers_of_a_preflight_do_not_replace_the_key() -> None:
    preflight = {
        **LOCAL,
        "origin": "http://localhost:6593",
        "access-control-request-method": "POST",
    }
    assert code(KEYED, preflight, "OPTIONS") is None
    assert code(KEYED, preflight, "POST") == "unauthorized"


# ---- preflights


def test_a_preflight_allows_the_headers_that_were_asked_for() -> None:
    asked = {
        "origin": "app://a",
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "x-api-key, content-type",
        "access-control-request-private-network": "true",
    }
    answer = gates.preflight_headers(asked)
    assert answer["access-control-allow-origin"] == "app://a"
    assert answer["access-control-allow-methods"] == "DELETE"
    assert answer["access-control-allow-headers"] == "x-api-key, content-type"
    assert answer["access-control-allow-private-network"] == "true"
    assert answer["vary"] == "origin"


def test_programs_get_no_cors_headers() -> None:
    assert gates.cors_headers(LOCAL) == {}
