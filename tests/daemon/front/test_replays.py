"""Which requests are retried after an engine crash, and which are suspected as its cause."""

from __future__ import annotations

from typing import Any, cast

from mlxd.daemon.front.completion import Completion
from mlxd.daemon.front.replays import Probation, refusal, suspects


def request(rid: int, **state: Any) -> Completion:
    one = Completion(rid, cast(Any, None), "chat", {}, {})
    for name, value in state.items():
        setattr(one, name, value)
    return one


def test_only_requests_being_computed_are_suspected_of_a_crash() -> None:
    under_way, waiting, answering = request(1, begun=True), request(2), request(3, output=True)
    assert suspects([under_way, waiting, answering], ready=True) == [under_way]
    assert suspects([waiting, answering], ready=True) == []


def test_all_requests_are_suspected_if_none_was_being_computed() -> None:
    both = [request(1), request(2)]
    assert suspects(both, ready=True) == both


def test_no_request_is_suspected_if_the_engine_was_never_ready() -> None:
    assert suspects([request(1, begun=True)], ready=False) == []


def test_a_request_is_refused_after_two_crashes_while_alone() -> None:
    assert refusal(request(1, suspect_deaths=1), "x", alone=True) is None
    assert refusal(request(1, suspect_deaths=2), "x", alone=False) is None, (
        "it may have been another"
    )
    assert refusal(request(1, suspect_deaths=4), "x", alone=False) is not None
    error = refusal(request(1, suspect_deaths=2), "x", alone=True)
    assert error is not None
    assert "is probably the cause" in error.message


def test_suspected_requests_are_retried_one_at_a_time() -> None:
    tried: list[Completion] = []
    probation = Probation(tried.append)
    one, two, three = request(1), request(2), request(3)
    assert probation.begin([one, two, three]) is one
    probation.passed(three)
    assert tried == [], "output of another request does not end the trial"
    assert probation.drop(two)
    probation.passed(one)
    assert tried == [three]
    probation.passed(three)
    probation.passed(three)
    assert tried == [three]


def test_clearing_the_probation_returns_the_held_requests() -> None:
    probation = Probation(lambda _one: None)
    one, two = request(1), request(2)
    probation.begin([one, two])
    assert probation.clear() == [two]
    assert not probation.drop(two)
