"""Pings a daemon's socket at a fixed rate, and prints the round trips: SOCKET SECONDS PAUSE."""

import json
import socket
import sys
import time

import msgpack

sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
ends_s, pause_s = time.monotonic() + float(sys.argv[2]), float(sys.argv[3])
trips_s: list[float] = []
while time.monotonic() < ends_s:
    request = msgpack.packb([0, len(trips_s), "ping", []])
    started = time.perf_counter()
    sock.sendall(request)
    unpacker = msgpack.Unpacker()
    while not any(True for _ in unpacker):
        unpacker.feed(sock.recv(4096))
    trips_s.append(time.perf_counter() - started)
    time.sleep(pause_s)
print(json.dumps(trips_s))
