"""The client's copy of a conversation. It survives restarts of the daemon."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mlxd.client.cli.daemon import connect
from mlxd.client.cli.options import absolute, params_of
from mlxd.client.sync import Client
from mlxd.protocol.errors import (
    ConnectionClosed,
    DaemonUnreachable,
    EngineDied,
    InvalidParams,
    MlxdError,
    ShuttingDown,
)

Message = dict[str, Any]
T = TypeVar("T")
OnEvent = Callable[[dict[str, Any]], None]
STARTING_OVER = (ConnectionClosed, DaemonUnreachable, EngineDied, ShuttingDown)


def _answer(text: str, tool_calls: list[Message]) -> Message:
    answer: Message = {"role": "assistant", "content": text}
    if tool_calls:
        answer["tool_calls"] = tool_calls
    return answer


class Conversation:
    """The messages so far. They survive restarts of the daemon.

    Every question is sent with all earlier messages. The daemon stores it as a turn of the
    conversation `stored`, whose id it assigned with the first question.
    """

    def __init__(self, values: dict[str, Any]) -> None:
        self.params = params_of("ask", values, "")
        self.system: str | None = values.get("system")
        del self.params["messages"]
        self.messages: list[Message] = []
        self.stored: str | None = None
        self.unanswered: str | None = None
        self._client: Client | None = None
        conversation = self.params.pop("conversation", None)
        if conversation is not None:
            self.open(conversation)

    @property
    def answers(self) -> int:
        """The number of answers so far."""
        return sum(message["role"] == "assistant" for message in self.messages)

    def summary(self) -> str:
        """Return the number of answers as a text."""
        return f"{self.answers} {'answer' if self.answers == 1 else 'answers'} so far"

    @property
    def model(self) -> str | None:
        """The requested model, or None for the default model."""
        return self.params.get("model")

    @model.setter
    def model(self, name: str | None) -> None:
        if name is None:
            self.params.pop("model", None)
        else:
            self.params["model"] = absolute(name)

    def all_messages(self) -> list[Message]:
        lead = [{"role": "system", "content": self.system}] if self.system else []
        return [*lead, *self.messages]

    def say(self, text: str, on_event: OnEvent) -> dict[str, Any]:
        """Send a question. Add it and its answer to the conversation. Return the result.

        A partial answer is added too. Without any text, the question becomes `unanswered`.
        """
        question = {"role": "user", "content": text}
        before, parts = self.stored, []

        def watch(event: dict[str, Any]) -> None:
            if event["type"] == "queued":
                self.stored = event.get("conversation", self.stored)
            elif event["type"] == "delta" and event["channel"] == "answer":
                parts.append(event["text"])
            on_event(event)

        self.unanswered = text
        try:
            result = self._answer([*self.all_messages(), question], watch)
        except BaseException:
            if parts:
                self._remember(question, _answer("".join(parts), []))
            raise
        choice = result["choices"][0]
        self._remember(question, _answer(choice["text"], choice["tool_calls"]))
        self.stored = result.get("conversation", before)
        return result

    def _remember(self, question: Message, answer: Message) -> None:
        self.messages += [question, answer]
        self.unanswered = None

    def clear(self) -> None:
        """Start a new conversation. The daemon keeps the stored one."""
        self.messages, self.stored, self.unanswered = [], None, None

    def undo(self) -> str | None:
        """Forget the last question and its answer. Return the question, or None."""
        question, self.unanswered = self.unanswered, None
        if question is None:
            asked = [at for at, one in enumerate(self.messages) if one["role"] == "user"]
            if not asked:
                return None
            question = str(self.messages[asked[-1]]["content"])
            del self.messages[asked[-1] :]
        if self.stored is not None:
            # Without a daemon, only this copy forgets the question.
            with contextlib.suppress(MlxdError):
                self.request("conversations.truncate", id=self.stored, turns=1)
        return question

    def open(self, name: str) -> None:
        """Continue a stored conversation: an id, or `last` for the last one of this terminal.

        Raises:
            InvalidParams: the conversation does not exist, or is not a chat.
        """
        if name == "last":
            scope = self.params.get("scope", "")
            found = self.request("conversations.list", limit=1, scope=scope)["conversations"]
            if not found:
                raise InvalidParams(
                    "",
                    "No conversation to continue in this terminal.",
                    hint="List all conversations: mlx log list",
                )
            name = found[0]["id"]
        record = self.request("conversations.show", id=name)
        if record["kind"] != "chat":
            raise InvalidParams(
                "", f"{record['id']} is not a chat.", hint="List the conversations: mlx log list"
            )
        self.clear()
        for turn in record["turns"]:
            if turn["answer"] or turn["tool_calls"]:
                self.messages += [*turn["messages"], _answer(turn["answer"], turn["tool_calls"])]
        self.stored, self.system = record["id"], self.system or record["system"]
        self.model = self.model or record["model"]

    def save(self, path: Path) -> None:
        """Write the conversation as Markdown if the name ends in .md, otherwise as JSON."""
        if path.suffix == ".md":
            parts = [f"**{m['role']}**\n\n{m['content']}\n" for m in self.all_messages()]
            path.write_text("\n".join(parts), encoding="utf-8")
        else:
            whole = {"model": self.model, "messages": self.all_messages()}
            path.write_text(json.dumps(whole, ensure_ascii=False, indent=1), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Read a JSON file that `save` wrote.

        Raises:
            InvalidParams: the file is not a conversation.
        """
        try:
            messages = json.loads(path.read_text(encoding="utf-8"))["messages"]
            checked = [{"role": str(m["role"]), "content": str(m["content"])} for m in messages]
        except (OSError, ValueError, KeyError, TypeError) as exc:
            problem = f"{path} cannot be read as a conversation: {exc}"
            raise InvalidParams(
                "", problem, hint="Give a file that /save wrote, or an id."
            ) from exc
        self.clear()
        self.system = next((m["content"] for m in checked if m["role"] == "system"), None)
        self.messages = [m for m in checked if m["role"] != "system"]

    def tokens(self) -> int:
        """Return the number of tokens of the conversation in the model's template."""
        messages = self.all_messages()
        if not messages:
            return 0
        asked = {"model": self.model} if self.model else {}
        return int(self.request("tokenize", messages=messages, **asked)["count"])

    def request(self, method: str, **params: Any) -> Any:
        """Call another method on the conversation's connection and return its result."""
        return self._again(lambda client: client.request(method, **params))

    def hang_up(self) -> None:
        """Close the connection, which cancels its requests."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _answer(self, messages: list[Message], on_event: OnEvent) -> dict[str, Any]:
        params = {**self.params, "messages": messages, "history": "given"}
        begun = False

        def ask(client: Client) -> dict[str, Any]:
            nonlocal begun
            with client.stream("chat", **params, conversation=self.stored) as stream:
                for event in stream:
                    begun = begun or event["type"] == "delta"
                    on_event(event)
                result: dict[str, Any] = stream.result
            return result

        # A repeated request would print the same text again.
        return self._again(ask, may_repeat=lambda: not begun)

    def _again(
        self, ask: Callable[[Client], T], may_repeat: Callable[[], bool] = lambda: True
    ) -> T:
        """Call `ask`. Repeat it once if the daemon was restarted since the last question."""
        try:
            self._client = self._client or connect()
            return ask(self._client)
        except STARTING_OVER:
            self.hang_up()
            if not may_repeat():
                raise
            self._client = connect()
            return ask(self._client)
        except BaseException:
            # The stream was not read to its end. Close it, so that the rest does not appear in the
            # next answer.
            self.hang_up()
            raise
