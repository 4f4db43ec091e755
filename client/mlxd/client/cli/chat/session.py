"""The state of one `mlx chat`: the conversation, the attached files and the last answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlxd.client.cli.chat.conversation import Conversation
from mlxd.client.cli.inputs import fenced
from mlxd.client.cli.printer import Printer
from mlxd.client.cli.terminal import tell
from mlxd.client.fast.text import VERSION, skew

RAISE_LIMIT = "/set max_tokens"


class Session:
    """Sends questions and prints their answers. `files` precede the next question."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values
        self.conversation = Conversation(values)
        self.files: list[str] = [fenced(name) for name in values.get("file", [])]
        self.last_answer = ""
        self.saved: Path | None = None
        self._skew = ""

    def opening(self) -> str:
        """Return the first lines: the model, its context length, and how to get help.

        Raises:
            ModelNotFound: the model does not exist.
        """
        record = self.conversation.request("models.show", model=self.conversation.model)
        context = record.get("context_tokens")
        size = f", context {context} tokens" if context else ""
        return f"{record.get('name', 'mlx')}{size}\n/help shows the commands, Ctrl-D leaves."

    def say(self, text: str) -> None:
        """Send a question and print the answer as it arrives. Ctrl-C stops only the answer."""
        # /set changes whether the model thinks.
        thinking = self.conversation.params.get("thinking")
        printer = Printer({**self.values, "thinking": thinking})
        try:
            with printer:
                result = self.conversation.say("\n\n".join([*self.files, text]), printer.event)
        except KeyboardInterrupt:
            tell("(stopped)")
            return
        finally:
            if self.conversation.unanswered is None:
                self.files = []
        self.last_answer = result["choices"][0]["text"]
        printer.finish(result, RAISE_LIMIT, seen=[self._skew])
        self._skew = skew(result["applied"].get("version", VERSION))
