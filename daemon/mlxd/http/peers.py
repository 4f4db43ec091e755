"""The user at the other end of a loopback TCP connection, from the kernel's tables (Linux).

/proc/net/tcp has a row for each end of a connection. The row whose local address is the peer's
belongs to the socket of the peer, and has its uid (proc_net_tcp in the kernel's documentation).
"""

from __future__ import annotations

import ipaddress
import os
import struct
from pathlib import Path

ESTABLISHED = "01"
TABLES = {4: Path("/proc/net/tcp"), 6: Path("/proc/net/tcp6")}

Address = tuple[str, int]


def kernel_tells() -> bool:
    """Return whether this system tells the user of a TCP connection."""
    return TABLES[4].exists()


def peer_uid(peer: Address, local: Address) -> int | None:
    """Return the uid of the peer of a loopback connection, or None if it is unknown."""
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
