"""Prevents control tokens in a caller's text from taking effect.

Chat templates write control tokens such as `<|im_end|>` as text, and the tokenizer turns that text
into the tokens. The same text from a caller must remain text. Before a template sees a caller's
strings, each control text in them is replaced by a placeholder of letters and digits, which
templates do not change. After rendering, only the template's own control texts are left. They
become tokens, and the placeholders are tokenized as the texts that they replaced.

A prompt without control texts is tokenized as usual, with the same result.
"""

from __future__ import annotations

import copy
import json
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

MARKER_SHAPE = re.compile(
    r"<[|｜].*>|<.*[|｜]>|\[/?[A-Z_]{3,}\]|</?[a-z]+([_-][a-z]+)+>|</?think>", re.DOTALL
)
"""Added tokens of this form are control tokens, even if the tokenizer does not mark them as
"special".

Other added tokens may be ordinary text. Gemma's include HTML tags and runs of spaces.
"""


class ControlText:
    """The control texts of one tokenizer.

    `markers` are further texts with a meaning to this program, such as those around reasoning.
    """

    def __init__(self, hf_tokenizer: Any, markers: Iterable[str] = ()) -> None:
        self._tokenizer = hf_tokenizer
        added = _added_tokens(hf_tokenizer)
        added_texts = [token.content for token in added.values() if token.content]
        template = getattr(hf_tokenizer, "chat_template", None)
        named = {mark for mark in markers if mark}
        written = template if isinstance(template, str) else json.dumps(template or "")
        self.tokens: dict[str, int] = {
            token.content: number
            for number, token in added.items()
            if token.content.strip() and _is_control(token, named, written)
        }
        """Maps the texts of control tokens to their ids."""
        # Longest first, because the tokenizer chooses the longest.
        self._texts = sorted({*self.tokens, *named}, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, self._texts))) if self._texts else None
        # A placeholder cannot be guessed, and a guessed one would only stand for text. It ends with
        # digits, which do not change if a template changes the case.
        self._tag = f"{secrets.randbits(64):020d}"
        self._stand_in = re.compile(f"[xX]{self._tag}[nN]([0-9]+)[xX]")
        self._numbers = {text: number for number, text in enumerate(self._texts)}
        self._loose = any(
            token.normalized for token in added.values() if token.content in self.tokens
        )
        ordinary = sorted({*added_texts} - {*self.tokens}, key=len, reverse=True)
        self._ordinary = "|".join(map(re.escape, ordinary))
        self._strips = {
            token.content: (token.lstrip, token.rstrip)
            for token in added.values()
            if token.content in self.tokens and (token.lstrip or token.rstrip)
        }

    def guard(self, value: Any) -> Any:
        """Return `value` with all control texts replaced, in strings at any depth and in keys."""
        if isinstance(value, str):
            if self._pattern is None:
                return value
            return self._pattern.sub(lambda found: self._name(found[0]), value)
        if isinstance(value, dict):
            return {self.guard(key): self.guard(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.guard(item) for item in value]
        return value

    def encode(self, text: str) -> list[int]:
        """Return the tokens of rendered text whose callers' strings were passed through `guard`."""
        callers = self._tag in text
        if not callers:
            tokens = self._plain(text)
            if not self._loose or self._count(tokens) <= self._written(text):
                return tokens
        if getattr(self._tokenizer, "backend_tokenizer", None) is None:
            return self._encode_in_pieces(text)
        return self._encode_parts(text, every=not callers)

    def _encode_parts(self, text: str, *, every: bool) -> list[int]:
        """Return the tokens of `text`. Parts from callers are tokenized without control tokens.

        `every`: treat every part between control tokens like this, because the callers' parts are
        unknown.
        """
        tokens: list[int] = []
        pending = end = 0
        marks = list(self._marks(text))
        for begin, after in [*marks, (len(text), len(text))]:
            part = text[end:begin]
            if part and (every or self._stand_in.search(part)):
                tokens += self._plain(text[pending:end])
                tokens += self._as_text(part, first=end == 0)
                pending = begin
            end = after
        return tokens + self._plain(text[pending:])

    def _marks(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield the start and end of each control token, including the white space that it
        absorbs."""
        for found in self._pattern.finditer(text) if self._pattern is not None else ():
            if found[0] not in self.tokens:
                continue
            begin, end = found.span()
            left, right = self._strips.get(found[0], (False, False))
            if left:
                begin = len(text[:begin].rstrip())
            if right:
                end = len(text) - len(text[end:].lstrip())
            yield begin, end

    def _as_text(self, part: str, *, first: bool) -> list[int]:
        """Return the tokens of a part between control tokens, without any control token."""
        tokens: list[int] = []
        for number, piece in enumerate(self._split_ordinary(self.restored(part))):
            if number % 2:
                tokens.append(self._tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                tokens += self._pipeline(piece, first=first and number == 0)
        return tokens

    def _split_ordinary(self, text: str) -> list[str]:
        """Split at added tokens that are ordinary text. These are the items with odd indices."""
        # Compiled at first use, and cached. Gemma has 6,000 of them.
        return re.split(f"({self._ordinary})", text) if self._ordinary else [text]

    def _pipeline(self, text: str, *, first: bool) -> list[int]:
        """Do the tokenizer's steps for text between its added tokens."""
        backend = self._tokenizer.backend_tokenizer
        if backend.normalizer is not None:
            text = backend.normalizer.normalize_str(text)
        splitter = backend.pre_tokenizer if first else _inside(backend.pre_tokenizer)
        words = [text] if splitter is None else [w for w, _ in splitter.pre_tokenize_str(text)]
        return [token for word in words for token in self._word(backend.model, word)]

    def _word(self, model: Any, word: str) -> list[int]:
        tokens = model.tokenize(word)
        for token in tokens:
            # Some vocabularies contain control texts as ordinary entries.
            if token.value in self.tokens and len(token.value) > 1 and token.value in word:
                cut = word.index(token.value) + 1
                return [*self._word(model, word[:cut]), *self._word(model, word[cut:])]
        return [token.id for token in tokens]

    def _name(self, text: str) -> str:
        return f"x{self._tag}n{self._numbers[text]}x"

    def restored(self, text: str) -> str:
        """Return the text with every placeholder replaced by its control text."""
        if self._tag not in text:  # much faster than searching with the pattern
            return text
        return self._stand_in.sub(lambda found: self._texts[int(found[1])], text)

    def _count(self, tokens: list[int]) -> int:
        numbers = set(self.tokens.values())
        return sum(token in numbers for token in tokens)

    def _written(self, text: str) -> int:
        """Return the number of control tokens that are written out in `text`.

        If tokenizing results in more, look-alikes have become control tokens by normalisation.
        """
        return sum(1 for _ in self._marks(text))

    def _encode_in_pieces(self, text: str) -> list[int]:
        """Return the tokens for a slow tokenizer, piece by piece."""
        tokens: list[int] = []
        for number, piece in enumerate(self._stand_in.split(text)):
            if number % 2 == 0:
                tokens += self._plain(piece)
                continue
            control = self._texts[int(piece)]
            # Without its first character, the text is not a control text.
            tokens += [*self._plain(control[:1]), *self._plain(control[1:])]
        return tokens

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []


def _added_tokens(hf_tokenizer: Any) -> dict[int, Any]:
    backend = getattr(hf_tokenizer, "backend_tokenizer", None)
    if backend is None:
        return dict(hf_tokenizer.added_tokens_decoder)
    return dict(backend.get_added_tokens_decoder())


def _is_control(token: Any, markers: set[str], template: str) -> bool:
    text = token.content
    if token.special or text in markers or MARKER_SHAPE.fullmatch(text):
        return True
    return text[0] in "<[" and text[-1] in ">]" and text in template


def _inside(splitter: Any) -> Any:
    """Return the pre-tokenizer for text after the start of the prompt, without a space before it.

    Sentencepiece adds the space that begins a word only before the first word of a prompt.
    """
    if splitter is None:
        return None
    state = splitter.__getstate__()
    inside = state.replace(b'"prepend_scheme":"first"', b'"prepend_scheme":"never"')
    if inside == state:
        return splitter
    other = copy.copy(splitter)
    other.__setstate__(inside)
    return other
