"""Which requests are retried after an engine's death, and which seem to be its cause."""

from __future__ import annotations

from typing import Any, cast

from mlxd.daemon.front.completion import Completion
from mlxd.daemon.front.replays import Probation, refusal, suspects


def request(rid: int, **state: Any) -> Completion:
    one = Completion(rid, cast(Any, None), "chat", {}, {})
    for name, value in state.items():
        setattr(one, name, value)
    return one


def test_what_was_under_way_is_suspect_and_what_only_waited_is_not() -> None:
    under_way, waiting, answering = request(1, begun=True), request(2), request(3, output=True)
    assert suspects([under_way, waiting, answering], ready=True) == [under_way]
    assert suspects([waiting, answering], ready=True) == []


def test_where_nothing_was_under_way_everything_is_suspect() -> None:
    both = [request(1), request(2)]
    assert suspects(both, ready=True) == both


def test_an_engine_that_never_got_ready_died_of_something_else() -> None:
    assert suspects([request(1, begun=True)], ready=False) == []


def test_the_second_death_under_a_request_is_its_last() -> None:
    assert refusal(request(1, suspect_deaths=1), "x", alone=True) is None
    assert refusal(request(1, suspect_deaths=2), "x", alone=False) is None, (
        "it may have been another"
    )
    assert refusal(request(1, suspect_deaths=4), "x", alone=False) is not None
    error = refusal(request(1, suspect_deaths=2), "x", alone=True)
    assert error is not None
    assert "is probably the cause" in error.message


def test_suspects_are_tried_one_after_the_other() -> None:
    tried: list[Completion] = []
    probation = Probation(tried.append)
    one, two, three = request(1), request(2), request(3)
    assert probation.begin([one, two, three]) is one
    probation.passed(three)
    assert tried == [], "another one's output does not end the trial"
    assert probation.drop(two)
    probation.passed(one)
    assert tried == [three]
    probation.passed(three)
    probation.passed(three)
    assert tried == [three]


def test_what_is_held_is_given_back() -> None:
    probation = Probation(lambda _one: None)
    one, two = request(1), request(2)
    probation.begin([one, two])
    assert probation.clear() == [two]
    assert not probation.drop(two)
