"""Generates `docs/python-api.md` from the docstrings of the client library.

python tools/python_api.py            writes it
python tools/python_api.py --check    exits 1 where the page says something else
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlxd.client
from mlxd.client import aio_methods, sync_methods
from mlxd.protocol.errors import MlxdError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python-api.md"
HEAD = """# Python API

`from mlxd.client import …`; written by `tools/python_api.py` from the docstrings. The parameters
of each method are in [the protocol](../protocol/SPEC.md#tables); they are passed by name.

```python
from mlxd.client import Client

with Client() as client:
    print(client.chat("Count from 3 to 7.", temperature=0).text)
    with client.stream_chat("Tell me a story.") as stream:
        for text in stream.texts():
            print(text, end="", flush=True)
        print(stream.result.usage.completion_tokens)
```

```python
from mlxd.client import AsyncClient

async with AsyncClient() as client:
    done = await client.chat("Count from 3 to 7.", temperature=0)
    async for event in client.stream_chat("Tell me a story."):
        ...
```

- **Results** are frozen dataclasses and maps at once: `done.choices[0].text`,
  `done["choices"][0]["text"]`. Keys that this version does not know are map keys.
  `json.dumps(done.to_dict())` writes one. `request` and `stream` return plain maps.
- **Errors** are subclasses of `MlxdError` with `message`, `hint`, `code`, `data` and `retryable`.
- **Stopping.** Leaving a loop over a stream early cancels its request. So do `close`, the end of a
  `with` block, and the cancellation of a task that waits.
- **Lost connections.** Requests in flight end with `ConnectionClosed`. If its
  `may_have_been_executed` is false, sending the request again is safe. The next request opens a new
  connection. The client itself sends a request again only if no byte of it was written before.
- **Time limits** hold for a client or for one request. Every method takes `timeout=`: a number of
  seconds for the whole request, `Timeouts(first_s=60, idle_s=10)`, or `None` for no limit. By
  default only connecting is limited, to 5 seconds.
- **Threads and processes.** Threads may share a `Client`; a stream belongs to one thread. After a
  fork the child's `Client` opens its own connection, and the parent's requests are not touched. An
  `AsyncClient` belongs to one event loop.
- The library does not start a daemon. Run `mlxd start` or `mlxd install`.
"""
METHODS = {
    "Client": (sync_methods.Methods, sync_methods.Models, sync_methods.Conversations),
    "AsyncClient": (
        aio_methods.AsyncMethods, aio_methods.AsyncModels, aio_methods.AsyncConversations,
    ),
}  # fmt: skip
PREFIXES = ("", "models.", "conversations.")


def raises_as_list(text: str) -> str:
    """Return a docstring with its Raises section as a list."""
    head, found, rest = text.partition("Raises:")
    if not found:
        return text
    lines = [line.strip() for line in rest.strip().splitlines()]
    items = "\n".join(f"- `{name}`: {why}" for name, _, why in (x.partition(": ") for x in lines))
    return f"{head.rstrip()}\n\nRaises:\n\n{items}".strip()


def signature(function: Any) -> str:
    """Return the parameters and result of a call, without `timeout`, which every method has."""
    whole = inspect.signature(function)
    kept = [one for one in whole.parameters.values() if one.name not in ("self", "cls", "timeout")]
    text = str(whole.replace(parameters=kept))
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)
    return text.replace("results.", "")


def members(kind: type[Any], prefix: str) -> Iterator[str]:
    """Yield a line for each public method and property that the class itself defines."""
    for name, value in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(value, property):
            if not prefix and name in ("models", "conversations"):
                continue
            yield f"- **`{name}`** {first_line(value)}"
        elif inspect.isfunction(value):
            wait = "await " if inspect.iscoroutinefunction(value) else ""
            yield f"- **`{wait}{prefix}{name}{signature(value)}`** {first_line(value)}"
        elif isinstance(value, classmethod):
            call = f"await {kind.__name__}.{name}{signature(value.__func__)}"
            yield f"- **`{call}`** {first_line(value)}"


def first_line(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0].replace("\n", " ")


def client(name: str) -> Iterator[str]:
    """Yield the section of a client class."""
    kind = getattr(mlxd.client, name)
    yield f"## {name}\n\n{raises_as_list(inspect.cleandoc(kind.__doc__ or ''))}\n"
    yield "\n".join([
        *members(kind, ""),
        *(line for one, prefix in zip(METHODS[name], PREFIXES, strict=True)
          for line in members(one, prefix)),
    ]) + "\n"  # fmt: skip


def record(kind: type[Any]) -> str:
    """Return the section of a result or event class: its fields with their types."""
    fields = [one for one in dataclasses.fields(kind) if not one.name.startswith("_")]
    listed = ", ".join(f"`{one.name}: {one.type}`" for one in fields)
    extra = "".join(
        f" Property `{name}`: {first_line(value)}"
        for name, value in vars(kind).items()
        if isinstance(value, property)
    )
    return f"- **`{kind.__name__}`** {first_line(kind)}{extra} {listed}".rstrip()


def sections() -> Iterator[str]:
    """Yield the parts of the page."""
    yield HEAD
    exported = {name: getattr(mlxd.client, name) for name in mlxd.client.__all__}
    for name in METHODS:
        yield from client(name)
    for name in ("Stream", "AsyncStream", "Timeouts"):
        yield f"## {name}\n\n{inspect.cleandoc(exported[name].__doc__ or '')}\n"
        listed = list(members(exported[name], ""))
        if name == "Timeouts":
            listed = [f"- `{one.name}: {one.type} = {one.default}`"
                      for one in dataclasses.fields(exported[name])]  # fmt: skip
        yield "\n".join(listed) + "\n"
    records = [one for one in exported.values() if issubclass(one, mlxd.client.Record)]
    events = [one for one in records if issubclass(one, mlxd.client.Event)]
    yield "## Results\n\n" + "\n".join(record(one) for one in records if one not in events) + "\n"
    yield "## Events\n\n" + "\n".join(record(one) for one in events) + "\n"
    errors = [one for one in exported.values() if issubclass(one, MlxdError)]
    lines = [f"| `{one.__name__}` | `{one.code}` | {one.meaning} |" for one in errors]
    yield "## Errors\n\n| class | code | meaning |\n|---|---|---|\n" + "\n".join(lines)


def page() -> str:
    """Return the whole page."""
    return textwrap.dedent("\n".join(sections())).rstrip() + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
