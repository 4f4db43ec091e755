"""The machine has no memory left in the middle of a prompt: a real engine, a real limit."""

from __future__ import annotations

import resource
from pathlib import Path

from support import needs
from support.daemon_process import running_daemon, user

ROOM_BYTES = 8 * 2**20
"""Less than the prompt's keys, values and logits take."""


@needs.linux_only  # has prlimit, to take memory from a process that runs
def test_an_engine_without_memory_costs_nobody_his_answer():
    with running_daemon() as daemon:
        assert daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]
        pid = daemon.engine_pid()
        limit = virtual_bytes(pid) + ROOM_BYTES
        resource.prlimit(pid, resource.RLIMIT_AS, (limit, limit))
        answer = daemon.ask("generate", prompt="word " * 500, max_tokens=2)
        if "error" in answer:  # MLX said so, rather than die of it
            assert answer["error"]["code"] == "out_of_memory"
        else:
            engine = daemon.ask("status")["engine"]
            assert engine["restarts"] == 1
            assert engine["pid"] != pid
        assert daemon.ask("chat", messages=user("hello"), max_tokens=2)["choices"]


def virtual_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmSize:")[1].split()[0]) * 1024
