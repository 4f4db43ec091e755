"""Splits decoded text into answer, reasoning and tool calls, and ends it at stop texts. Pure.

Markers are searched in text rather than in tokens, because a tokenizer may merge a marker's last
character with the text after it. Text that may be the beginning of a marker is held back.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from mlxd.daemon.engine.tokenization.tool_strings import ends_in_string


class Channel(Enum):
    ANSWER = "answer"
    REASONING = "reasoning"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class Markers:
    """The texts with which a model marks reasoning and tool calls. Empty: the model has none."""

    think_start: str = ""
    think_end: str = ""
    tool_start: str = ""
    tool_end: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one channel. A tool call is one piece, and `closed` unless the answer ended in it."""

    channel: Channel
    text: str
    closed: bool = False


@dataclass(slots=True)
class TextSplitter:
    """Feed decoded text and collect pieces. After `stopped`, all further text is dropped."""

    markers: Markers
    stops: tuple[str, ...] = ()
    channel: Channel = Channel.ANSWER
    stopped: bool = False
    literal: bool = False
    """The answer is plain text, whatever it contains. Only reasoning before it is split off."""
    _held: str = ""
    _call: str = ""
    """Text of the tool call so far."""
    _passed_over: bool = False
    """An end marker in the tool call was taken for a part of a string."""
    _any_end: bool = False
    """Strings in tool calls are not recognised: a call had one that was not closed."""
    _trim_left: bool = field(default=False)
    _first_letters: frozenset[str] = field(default=frozenset())

    def __post_init__(self) -> None:
        if self.literal:
            kept = self.markers
            self.markers = Markers(think_start=kept.think_start, think_end=kept.think_end)
        self._first_letters = frozenset(mark[0] for mark in self._active())

    def feed(self, text: str) -> list[Piece]:
        """Return the pieces that are certain after `text`."""
        plain = not (self._held or self._trim_left or self.stopped)
        pieces: list[Piece] = []
        if plain and self._first_letters.isdisjoint(text):
            # The common case: nothing in the text can begin a marker.
            self._emit(pieces, text)
            return pieces
        self._held += text
        while self._held and not self.stopped:
            position, marker = self._first_marker()
            if self.literal and marker and marker == self.markers.think_start and position:
                self._only_text()
                continue
            if marker is None:
                keep = self._partial_marker_length()
                self._emit(pieces, self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                break
            self._emit(pieces, self._held[:position])
            self._held = self._held[position + len(marker) :]
            self._pass(marker, pieces)
        return pieces

    def flush(self, *, cut: bool = False) -> list[Piece]:
        """Return the text that was held back. `cut`: the model had not finished its answer."""
        pieces: list[Piece] = []
        if not self.stopped:
            self._emit(pieces, self._held)
        self._held = ""
        if self._passed_over and not cut:
            # The string was never closed, so the marker did end the call.
            call, self._call = self._call, ""
            self._passed_over, self._any_end = False, True
            return pieces + self.feed(call) + self.flush()
        if self._call:
            pieces.append(Piece(Channel.TOOL, self._call))
            self._call = ""
        return pieces

    def _emit(self, pieces: list[Piece], text: str) -> None:
        if self._trim_left:
            text = text.lstrip("\n")
            self._trim_left = not text
        if self.channel is Channel.TOOL:
            self._call += text
        elif text:
            pieces.append(Piece(self.channel, text))
            if self.literal and self.channel is Channel.ANSWER:
                self._only_text()

    def _only_text(self) -> None:
        """The reasoning is over. From here on only stop texts are special."""
        self.markers = Markers()
        self._first_letters = frozenset(mark[0] for mark in self._active())

    def _active(self) -> tuple[str, ...]:
        marks = self.markers
        if self.channel is Channel.TOOL:
            return (marks.tool_end,) if marks.tool_end else ()
        if self.channel is Channel.REASONING:
            found: tuple[str, ...] = (marks.think_end, marks.tool_start)
        else:
            found = (marks.think_start, marks.tool_start, *self.stops)
        return tuple(mark for mark in found if mark)

    def _first_marker(self) -> tuple[int, str | None]:
        best: tuple[int, str | None] = (len(self._held), None)
        for marker in self._active():
            position = self._held.find(marker)
            if position != -1 and position < best[0]:
                best = (position, marker)
        return best

    def _partial_marker_length(self) -> int:
        """Return the length of the longest suffix of the held text that may begin a marker."""
        longest = 0
        for marker in self._active():
            for size in range(min(len(marker) - 1, len(self._held)), longest, -1):
                if marker.startswith(self._held[-size:]):
                    longest = size
                    break
        return longest

    def _pass(self, marker: str, pieces: list[Piece]) -> None:
        marks = self.markers
        if self.channel is Channel.ANSWER and marker in self.stops:
            self.stopped = True
            self._held = ""
        elif marker == marks.tool_end and self.channel is Channel.TOOL:
            self._end_call(marker, pieces)
        elif marker == marks.tool_start:
            self._switch(Channel.TOOL)
        elif marker == marks.think_start:
            self._switch(Channel.REASONING)
        else:
            self._switch(Channel.ANSWER)
            if self.literal:
                self._only_text()

    def _end_call(self, marker: str, pieces: list[Piece]) -> None:
        if not self._any_end and ends_in_string(self._call, marker):
            self._call += marker
            self._passed_over = True
            return
        pieces.append(Piece(Channel.TOOL, self._call, closed=True))
        self._call, self._passed_over = "", False
        self._switch(Channel.ANSWER)

    def _switch(self, channel: Channel) -> None:
        self.channel = channel
        self._first_letters = frozenset(mark[0] for mark in self._active())
        # The line breaks around markers belong to the template, not to the text.
        self._trim_left = True
