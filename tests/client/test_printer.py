"""The printer of ask, generate, fill and chat, on pipes."""

from __future__ import annotations

from typing import Any

import pytest

from mlxd.client.cli.printer import Printer
from mlxd.client.fast.text import VERSION

Captured = pytest.CaptureFixture[str]


def delta(text: str, channel: str = "answer") -> dict[str, Any]:
    return {"type": "delta", "channel": channel, "text": text}


def result(*texts: str, model: str = "qwen", notes: tuple[str, ...] = ()) -> dict[str, Any]:
    choices = [{"text": text, "finish_reason": "stop"} for text in texts]
    return {"choices": choices, "applied": {"model": model, "notes": notes, "version": VERSION}}


def printed(values: dict[str, Any], *texts: str, capsys: Captured, several: bool = False) -> str:
    printer = Printer(values, several=several)
    with printer:
        for text in texts:
            printer.event(delta(text))
    printer.finish(result(*(texts if several else ["".join(texts)])), "--max-tokens")
    return capsys.readouterr().out


def test_an_answer_is_printed_as_it_arrives_and_its_line_ends(capsys: Captured) -> None:
    printer = Printer({})
    with printer:
        printer.event(delta("Hel"))
        assert capsys.readouterr().out == "Hel"
        printer.event(delta("lo"))
    assert capsys.readouterr().out == "lo\n"


@pytest.mark.parametrize("option", ["no_stream", "extract", "json"])
def test_an_answer_is_printed_once_also_at_its_end(option: str, capsys: Captured) -> None:
    said = printed({option: True}, "Hel", "lo", capsys=capsys)
    assert said.count("Hello") == 1


def test_only_the_first_code_block_is_printed_on_request(capsys: Captured) -> None:
    text = "Here:\n```py\nx = 1\n```\nDone.\n```\ny\n```\n"
    assert printed({"extract": True}, text, capsys=capsys) == "x = 1\n"


def test_several_answers_are_numbered(capsys: Captured) -> None:
    assert printed({}, "Red", "Blue", capsys=capsys, several=True) == "1. Red\n2. Blue\n"


def test_reasoning_never_reaches_stdout(capsys: Captured) -> None:
    printer = Printer({"thinking": True})
    with printer:
        printer.event(delta("Hm.", "reasoning"))
        printer.event(delta("Yes."))
    assert capsys.readouterr().out == "Yes.\n"


def break_off(printer: Printer) -> None:
    with printer:
        printer.event(delta("Hel"))
        raise ConnectionError


def test_an_answer_that_breaks_off_ends_its_line(capsys: Captured) -> None:
    with pytest.raises(ConnectionError):
        break_off(Printer({}))
    assert capsys.readouterr().out == "Hel\n"


def test_remarks_that_were_seen_are_not_repeated(capsys: Captured) -> None:
    found = result("Hi", notes=("seed ignored", "top_k ignored"))
    Printer({}).finish(found, "--max-tokens", seen=["mlx: seed ignored"])
    assert capsys.readouterr().err == "mlx: top_k ignored\n"
