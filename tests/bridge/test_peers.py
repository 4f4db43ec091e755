"""The kernel's table names the user of a connection."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxd.http import peers
from support import needs
from support.bridge import has_ipv6

ROW = "   7: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {uid}        0 99 1\n"
FAMILIES = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
PORTS = st.integers(1, 65535)


def row(local: peers.Address, remote: peers.Address, uid: int, state: str = "01") -> str:
    texts = {"local": peers.address_text(local), "remote": peers.address_text(remote)}
    return ROW.format(**texts, uid=uid, state=state)


@given(PORTS, PORTS, st.integers(0, 2**32 - 2))
def test_the_row_of_the_peers_own_end_has_its_uid(peer: int, local: int, uid: int) -> None:
    a, b = ("127.0.0.1", peer), ("127.0.0.1", local)
    if peer == local:
        return
    table = "header\n" + row(b, a, uid=0)
    assert peers.uid_in(table, a, b) is None
    table += row(a, b, uid=uid)
    assert peers.uid_in(table, a, b) == uid


@pytest.mark.parametrize("state", ["02", "04", "05", "06", "08", "0A"])
def test_only_established_connections_have_a_user(state: str) -> None:
    a, b = ("127.0.0.1", 4000), ("127.0.0.1", 80)
    table = row(a, b, uid=0, state=state)
    assert peers.uid_in(table, a, b) is None


@needs.linux_only
def test_the_kernel_names_this_user_for_both_families() -> None:
    for family, address in FAMILIES[: 1 + has_ipv6()]:
        with closing(socket.socket(family)) as listener:
            listener.bind((address, 0))
            listener.listen()
            with closing(socket.create_connection(listener.getsockname()[:2])):
                accepted, peer = listener.accept()
                with closing(accepted):
                    local = accepted.getsockname()[:2]
                    assert peers.peer_uid(peer[:2], local) == os.geteuid()
                    assert peers.uid_by_table(peer[:2], local) == os.geteuid()
                    assert peers.peer_uid((peer[0], 1), local) is None
                assert peers.peer_uid(peer[:2], local) is None


def diag_answer(kind: int, state: int, uid: int) -> bytes:
    header = (88).to_bytes(4, sys.byteorder) + kind.to_bytes(2, sys.byteorder) + bytes(10)
    return header + bytes([2, state, 0, 0]) + bytes(48 + 12) + uid.to_bytes(4, sys.byteorder)


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_the_kernels_answer_about_a_connection(uid: int, state: int) -> None:
    expected = uid if state == peers.TCP_ESTABLISHED else None
    assert peers.uid_in_diag(diag_answer(20, state, uid)) == expected


def test_a_kernel_without_that_question_is_told_from_an_unknown_connection() -> None:
    def refused(number: int) -> bytes:
        return diag_answer(2, 0, 0)[:16] + number.to_bytes(4, sys.byteorder, signed=True)

    assert peers.uid_in_diag(refused(-errno.ENOENT)) is None
    with pytest.raises(OSError, match="Invalid argument"):
        peers.uid_in_diag(refused(-errno.EINVAL))
