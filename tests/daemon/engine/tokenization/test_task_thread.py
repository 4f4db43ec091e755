"""A tokenizer that does not return: its caller gets an answer, and others continue."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from mlxd.daemon.engine.cancellation import Cancellation
from mlxd.daemon.engine.link import Inbox
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.tokenization import worker
from mlxd.daemon.engine.tokenization.task_thread import TaskThread
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.daemon.engine.tokenization.worker import Preparer
from mlxd.protocol.errors import MlxdError
from support.engine_process import POCKET
from support.requests import asking

WAIT_S = 60.0


def test_the_next_task_runs_on_another_thread_when_one_does_not_return() -> None:
    thread, free = TaskThread("test"), threading.Event()
    ran: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def stuck() -> None:
        with thread.limit(0.05, lambda: ran.put("given up")):
            assert free.wait(WAIT_S)
        ran.put("returned")

    thread.submit(stuck)
    for _ in range(2):
        thread.submit(lambda: ran.put(threading.get_ident()))
    assert ran.get(timeout=WAIT_S) == "given up"
    one = ran.get(timeout=WAIT_S)
    assert ran.get(timeout=WAIT_S) == one
    free.set()
    assert ran.get(timeout=WAIT_S) == "returned"
    thread.submit(lambda: ran.put(threading.get_ident()))
    assert ran.get(timeout=WAIT_S) == one, "the thread that was replaced runs no task"


def test_a_task_that_fails_ends_neither_the_thread_nor_the_next_task(
    capfd: pytest.CaptureFixture[str],
) -> None:
    thread, ran = TaskThread("test"), threading.Event()

    def fail() -> None:
        raise SystemExit(3)

    thread.submit(fail)
    thread.submit(ran.set)
    assert ran.wait(WAIT_S)
    assert "A task failed: SystemExit" in capfd.readouterr().err


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the tokenizer hang at the text "stuck" until the event is set."""
    free, encode = threading.Event(), Tokenizer.encode

    def hang(self: Tokenizer, text: str) -> list[int]:
        if text == "stuck":
            assert free.wait(WAIT_S)
        return encode(self, text)

    monkeypatch.setattr(Tokenizer, "encode", hang)
    # For the stuck text only: a busy machine may take long over the others.
    monkeypatch.setattr(worker, "limit_s", lambda size: 0.05 if size == len("stuck") else 600.0)
    return free


def test_a_stuck_tokenizer_is_an_error_with_a_next_step_and_others_are_prepared(
    stuck: threading.Event,
) -> None:
    inbox: Inbox = queue.SimpleQueue()
    preparer = Preparer(inbox)
    requests = [asking("generate", {"prompt": text}, n) for n, text in enumerate(["stuck", "one"])]
    for request in requests:
        preparer.prepare(request, Cancellation())
    given_up, ready = inbox.get(timeout=WAIT_S), inbox.get(timeout=WAIT_S)
    assert (given_up.request_id, given_up.error.code) == (0, "internal")
    assert "The tokenizer of pocket did not return within" in given_up.error.message
    assert "Shorten or change the text" in given_up.error.hint
    assert ready.request_id == 1
    assert ready.prepared is not None
    stuck.set()


def test_the_method_tokenize_is_answered_once_where_the_tokenizer_is_stuck(
    stuck: threading.Event,
) -> None:
    preparer, answers = Preparer(queue.SimpleQueue()), queue.SimpleQueue[Any]()

    def done(result: Any, error: MlxdError | None) -> None:
        answers.put((result, error))

    ref = ModelRef("pocket", str(POCKET))
    preparer.answer(lambda one: one.encode("stuck"), ref, done, 5)
    preparer.answer(lambda one: one.encode("ab"), ref, done, 2)
    error = answers.get(timeout=WAIT_S)[1]
    assert (error.code, answers.get(timeout=WAIT_S)[1]) == ("internal", None)
    stuck.set()
    preparer.answer(lambda one: one.encode("ab"), ref, done, 2)
    assert answers.get(timeout=WAIT_S)[1] is None
    assert answers.empty()
