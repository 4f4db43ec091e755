"""Prints answers: the text on stdout as it arrives, everything else on stderr.

`ask`, `generate`, `fill` and `chat` share it. The fast path has its own, which imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from types import TracebackType
from typing import Any, Self

from mlxd.client.cli.terminal import Answer, print_json, tell
from mlxd.client.fast.text import StatusPrinter, introduce, remarks

CODE_BLOCK = re.compile(r"^(`{3,})[^\n]*\n(.*?)(?:^\1\s*$|\Z)", re.S | re.M)


class Printer:
    """Prints the events and the result of one request. Use it as a context manager.

    `values` are the options of the command line. With `markdown`, an answer on a terminal is
    rendered. With `several`, the request has more than one answer, which are printed at the end.
    """

    def __init__(
        self, values: dict[str, Any], *, markdown: bool = True, several: bool = False
    ) -> None:
        self._values = values
        self._at_end = several or any(values.get(n) for n in ("json", "no_stream", "extract"))
        self._answer = Answer(plain=bool(values.get("plain")) or not markdown)
        # The reasoning of several answers would be mixed.
        thinking = False if several else values.get("thinking")
        self._status = StatusPrinter(thinking, values.get("quiet"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the line of an answer, complete or not."""
        self._status.settle()
        self._answer.close()

    def event(self, event: dict[str, Any]) -> None:
        """Print an event according to the options."""
        if self._values.get("events"):
            print_json(event)
        elif event["type"] != "delta" or event["channel"] != "answer":
            self._status.event(event)
        elif not self._at_end:
            self._status.settle()
            self._answer.write(event["text"])

    def finish(self, result: dict[str, Any], raise_limit: str, seen: Collection[str] = ()) -> None:
        """Print a result that was not streamed, then remarks on stderr.

        `raise_limit` is the command or flag that raises max_tokens. Lines in `seen` are omitted.
        """
        if self._values.get("json"):
            print_json(result)
        elif self._at_end:
            self._print_whole(result)
        for line in remarks(result, self._values, raise_limit):
            if line not in seen:
                tell(line)
        if result["applied"]["model"] == "pocket" and not self._values.get("quiet"):
            introduce()

    def _print_whole(self, result: dict[str, Any]) -> None:
        texts = texts_of(result, self._values)
        if len(texts) > 1:
            texts = [f"{number}. {text.rstrip()}\n" for number, text in enumerate(texts, 1)]
        plain = self._values.get("plain") or self._values.get("extract") or len(texts) > 1
        answer = Answer(plain=bool(plain))
        for text in texts:
            answer.write(text)
        answer.close()


def texts_of(result: dict[str, Any], values: dict[str, Any]) -> list[str]:
    """Return the answers of a result, or with `extract` their code blocks."""
    texts: list[str] = [choice["text"] for choice in result["choices"]]
    return [first_code_block(text) for text in texts] if values.get("extract") else texts


def first_code_block(text: str) -> str:
    """Return the first fenced code block, or the whole text if there is none."""
    found = CODE_BLOCK.search(text)
    return found.group(2) if found else text
