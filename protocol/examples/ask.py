"""Streams an answer, in MessagePack. Needs: pip install msgpack"""

import os
import socket
import sys

import msgpack

runtime = os.environ.get("XDG_RUNTIME_DIR", "")
path = os.environ.get("MLXD_SOCKET") or runtime + "/mlxd/mlxd.sock"
messages = [{"role": "user", "content": " ".join(sys.argv[1:])}]
params = {"messages": messages, "temperature": 0, "stream": True}

with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(path)
    connection.sendall(msgpack.packb([0, 1, "chat", [params]]))
    unpacker = msgpack.Unpacker()
    while data := connection.recv(65536):
        unpacker.feed(data)
        for kind, *rest in unpacker:
            if kind == 2 and rest[1][0]["type"] == "delta":
                print(rest[1][0]["text"], end="", flush=True)
            elif kind == 1:
                _, error, result = rest
                sys.exit(f"{error['message']}\n{error['hint']}" if error else print())
