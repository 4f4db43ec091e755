"""The user at the other end of a loopback TCP connection, from the kernel's tables (Linux).

The kernel knows both ends of the connection. The end whose local address is the peer's is the
socket of the peer, and has its uid. sock_diag(7) looks it up in 0.2 ms. Where a kernel or a
container does not offer that, /proc/net/tcp has the same in text, but takes 10 ms to read.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from pathlib import Path

ESTABLISHED = "01"
TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}

NETLINK_SOCK_DIAG = 4  # <linux/netlink.h>
SOCK_DIAG_BY_FAMILY = 20  # <linux/sock_diag.h>
NLMSG_ERROR = 2
NO_COOKIE = 0xFFFFFFFF  # INET_DIAG_NOCOOKIE of <linux/inet_diag.h>
TCP_ESTABLISHED = 1
UID_OFFSET = 16 + 4 + 48 + 12
"""Of idiag_uid: behind the header, four bytes, the addresses, and three numbers."""
DIAG_TIMEOUT_S = 1.0
DIAG_ANSWER_BYTES = 4096

Address = tuple[str, int]


def kernel_tells() -> bool:
    """Return whether this system tells the user of a TCP connection."""
    return TABLES[4].exists()


def peer_uid(peer: Address, local: Address) -> int | None:
    """Return the uid of the peer of a loopback connection, or None if it is unknown."""
    try:
        return uid_by_diag(peer, local)
    except OSError:
        return uid_by_table(peer, local)


def uid_by_diag(peer: Address, local: Address) -> int | None:
    """Ask the kernel for one connection.

    Raises:
        OSError: the kernel does not answer such questions.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(DIAG_TIMEOUT_S)
        netlink.sendto(diag_request(peer, local), (0, 0))
        return uid_in_diag(netlink.recv(DIAG_ANSWER_BYTES))


def diag_request(peer: Address, local: Address) -> bytes:
    """Return the question for one connection: nlmsghdr and inet_diag_req_v2."""
    family = socket.AF_INET if ipaddress.ip_address(peer[0]).version == 4 else socket.AF_INET6
    ports = struct.pack("!HH", peer[1], local[1])
    addresses = _padded(peer[0]) + _padded(local[0])
    interface_and_cookie = struct.pack("=III", 0, NO_COOKIE, NO_COOKIE)
    states = 1 << TCP_ESTABLISHED
    about = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, states)
    request = about + ports + addresses + interface_and_cookie
    return struct.pack("=IHHII", 16 + len(request), SOCK_DIAG_BY_FAMILY, 1, 1, 0) + request


def _padded(address: str) -> bytes:
    return ipaddress.ip_address(address.partition("%")[0]).packed.ljust(16, b"\0")


def uid_in_diag(answer: bytes) -> int | None:
    """Return the uid in an answer: nlmsghdr and inet_diag_msg. None: no such connection.

    Raises:
        OSError: the answer is an error.
    """
    (kind,) = struct.unpack_from("=H", answer, 4)
    if kind == NLMSG_ERROR:
        (number,) = struct.unpack_from("=i", answer, 16)
        if number == -errno.ENOENT:
            return None
        raise OSError(-number, os.strerror(-number))
    if answer[17] != TCP_ESTABLISHED:
        return None
    (uid,) = struct.unpack_from("=I", answer, UID_OFFSET)
    return int(uid)


def uid_by_table(peer: Address, local: Address) -> int | None:
    """Look a connection up in the text of /proc."""
    version = ipaddress.ip_address(peer[0]).version
    try:
        table = TABLES[version].read_text("ascii")
    except OSError:
        return None
    return uid_in(table, peer, local)


def uid_in(table: str, peer: Address, local: Address) -> int | None:
    """Return the uid of the row from `peer` to `local`, or None if there is none.

    Only established connections count: the kernel shows uid 0 for a socket that its process has
    closed.
    """
    wanted = f" {address_text(peer)} {address_text(local)} {ESTABLISHED} "
    start = table.find(wanted)
    if start < 0:
        return None
    fields = table[start : table.find("\n", start)].split()
    return int(fields[6])


def address_text(address: Address) -> str:
    """Return an address as the kernel prints it: words in the machine's byte order, then the port.

    127.0.0.1:80 is 0100007F:0050 on little-endian machines.
    """
    packed = ipaddress.ip_address(address[0].partition("%")[0]).packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def is_own(uid: int | None) -> bool:
    """Return whether a uid is that of this process."""
    return uid == os.geteuid()
