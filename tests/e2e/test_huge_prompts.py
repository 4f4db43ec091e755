"""The front refuses prompts that cannot fit, so that no other request waits for them."""

from __future__ import annotations

import re

from support.daemon_process import Daemon, user

HUGE = "red green blue " * 540_000
"""8 MB, which take many seconds to tokenize."""


def engine_requests(daemon: Daemon) -> int:
    found = re.search(r"^mlxd_engine_requests_total (\d+)", daemon.ask("metrics")["text"], re.M)
    assert found is not None
    return int(found[1])


def test_the_front_refuses_prompts_over_the_context_of_a_loaded_model(daemon: Daemon) -> None:
    daemon.ask("chat", messages=user("hello"), max_tokens=1)
    before = engine_requests(daemon)
    asked = (
        ("generate", {"prompt": HUGE}),
        ("chat", {"messages": user(HUGE), "conversation": "new"}),
        ("prefill", {"messages": user(HUGE)}),
        ("fill", {"prefix": HUGE}),
    )
    for method, params in asked:
        error = daemon.ask(method, **params)["error"]
        assert error["code"] == "context_overflow", method
        assert "The prompt has at least" in error["message"]
        assert "Shorten the prompt by" in error["hint"]
    assert engine_requests(daemon) == before, "none of them reached the engine"
    assert not daemon.ask("conversations.search", query="green blue")["conversations"]
    assert "error" not in daemon.ask("chat", messages=user("hello"), max_tokens=1)
