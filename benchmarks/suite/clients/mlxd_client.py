"""Sends QUESTION to mlxd with the project's Python package."""

import sys

from mlxd.client import Client

QUESTION = [{"role": "user", "content": sys.argv[1]}]
with Client() as client:
    for event in client.stream("chat", messages=QUESTION, max_tokens=16, temperature=0):
        if event["type"] == "delta":
            print(event["text"], end="", flush=True)
