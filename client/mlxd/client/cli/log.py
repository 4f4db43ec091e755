"""`mlx log`: the stored conversations."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import click

from mlxd.client.cli.batch_files import output_of
from mlxd.client.cli.completion import complete_conversations
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import Group
from mlxd.client.cli.inputs import as_text, read_file, read_stdin
from mlxd.client.cli.tables import ago, print_table
from mlxd.client.cli.terminal import Answer, tell, visible
from mlxd.client.fast.text import scope
from mlxd.client.sync import Client
from mlxd.protocol.conversations import check_record
from mlxd.protocol.errors import InvalidParams

Record = dict[str, Any]
PAGE = 500
"""Number of conversations per call of `conversations.list` during an export."""
IMPORT_BYTES = 1 << 20
"""About this many bytes of a file are sent at once, far below the limit of a message."""


@click.group(
    cls=Group,
    epilog="\b\nContinue one:\n  mlx chat --conversation ID\n  mlx ask --conversation ID …\n",
)
def log() -> None:
    """List, search, export and delete stored conversations."""


@log.command("list")
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, help="How many.")
@click.option("--here", is_flag=True, help="Only conversations of this terminal (or folder).")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_conversations(limit: int, here: bool, as_json: bool) -> None:
    """List the latest conversations, newest first."""
    asked = {"scope": scope()} if here else {}
    with connect() as client:
        found = client.request("conversations.list", limit=limit, **asked)["conversations"]
    _print_records(found, as_json=as_json, none="No conversations are stored.")


@log.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find conversations that contain all WORDS."""
    with connect() as client:
        found = client.request("conversations.search", query=" ".join(words), limit=limit)
    _print_records(found["conversations"], as_json=as_json, none="No conversation matches.")


@log.command()
@click.argument(
    "conversation", required=False, metavar="[ID]", shell_complete=complete_conversations
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--plain", is_flag=True, help="Do not render Markdown on a terminal.")
def show(conversation: str | None, as_json: bool, plain: bool) -> None:
    """Print the conversation ID, or the last one of this terminal."""
    with connect() as client:
        name = conversation or _last(client.request("conversations.list", limit=1, scope=scope()))
        record = client.request("conversations.show", id=name)
    if as_json:
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    tell(f"{record['id']}  {_time(record['updated'])}  {record['model']}")
    if record["system"]:
        click.echo(f"\nSystem: {visible(record['system'])}")
    for turn in record["turns"]:
        _print_turn(turn, plain=plain)


@log.command()
@click.argument("file", default="-", metavar="[FILE|-]")
def export(file: str) -> None:
    """Write every conversation to FILE or stdout, oldest first, one JSON object per line."""
    target = output_of(file)
    if target.path is not None and target.resumable and target.path.exists():
        raise Misuse(f"{file} exists.", hint="Choose another file.")
    with connect() as client:
        names = _all_ids(client)
        with target.opened() as out:
            for name in reversed(names):
                whole = client.request("conversations.show", id=name)
                for turn in whole["turns"]:
                    del turn["number"]  # each database assigns its own numbers
                out.write(json.dumps(whole, ensure_ascii=False) + "\n")
    tell(f"{len(names)} conversations exported.")


def _all_ids(client: Client) -> list[str]:
    """Return the id of every conversation, newest first."""
    # A dict, because a conversation that is used meanwhile moves others to the next page.
    found: dict[str, None] = {}
    offset = 0
    while page := client.conversations.list(limit=PAGE, offset=offset):
        found.update(dict.fromkeys(record.id for record in page))
        offset += len(page)
    return list(found)


@log.command("import")
@click.argument("file", metavar="FILE|-")
def import_file(file: str) -> None:
    """Import the conversations of FILE, written by `mlx log export`.

    Conversations that are already stored are skipped. If any line is invalid, nothing is imported.
    """
    text = as_text(read_stdin() if file == "-" else read_file(file), file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    records = [_record(number, line) for number, line in lines]
    imported = 0
    with connect() as client:
        for chunk in _chunks(records, [len(line) for _, line in lines]):
            imported += client.conversations.import_conversations(chunk)
    skipped = len(records) - imported
    tell(f"{imported} conversations imported, {skipped} skipped because they are already stored.")


def _record(number: int, line: str) -> Record:
    try:
        found = json.loads(line)
        json.dumps(found, ensure_ascii=False).encode()  # raises on half of a surrogate pair
        return check_record("conversation", found)
    except (ValueError, RecursionError) as exc:
        problem = f"Line {number} is not JSON: {exc}."
    except InvalidParams as exc:
        problem = f"Line {number}: {exc.message.rstrip('.')}."
    raise Misuse(
        f"{problem} Nothing was imported.", hint="Give a file that `mlx log export` wrote."
    )


def _chunks(records: list[Record], sizes: list[int]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    total = 0
    for record, size in zip(records, sizes, strict=True):
        if chunk and total + size > IMPORT_BYTES:
            yield chunk
            chunk, total = [], 0
        chunk.append(record)
        total += size
    if chunk:
        yield chunk


@log.command()
@click.argument("conversations", nargs=-1, metavar="[ID]...", shell_complete=complete_conversations)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
def rm(conversations: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Delete the conversations with these IDs."""
    if everything == bool(conversations):
        raise click.UsageError("Give ids, or --all.")
    if everything and not yes:
        click.confirm("Delete every stored conversation?", abort=True, err=True)
    with connect() as client:
        if everything:
            removed = client.request("conversations.remove", all=True)["removed"]
        else:
            asked = [client.request("conversations.remove", id=one) for one in conversations]
            removed = sum(one["removed"] for one in asked)
    tell(f"{removed} deleted.")


def _last(found: Record) -> str:
    records = found["conversations"]
    if not records:
        raise click.UsageError("No conversation in this terminal yet. Give an id: mlx log list")
    return str(records[0]["id"])


def _print_records(records: list[Record], *, as_json: bool, none: str) -> None:
    if as_json:
        click.echo(json.dumps(records, ensure_ascii=False))
    elif not records:
        tell(none)
    else:
        rows = [_row(record) for record in records]
        print_table(("ID", "WHEN", "MODEL", "TURNS", "QUESTION"), rows)


def _row(record: Record) -> tuple[str, ...]:
    title = visible(" ".join((record.get("snippet") or record["title"]).split()))
    when = ago(time.time() - record["updated"])
    return (record["id"], when, record["model"], str(record["turns"]), title)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _print_turn(turn: Record, *, plain: bool) -> None:
    for message in turn["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        click.echo("\n" + click.style("> " + visible(text).replace("\n", "\n> "), dim=True) + "\n")
    answer = Answer(plain=plain)
    answer.write(turn["answer"])
    answer.close()
    for call in turn["tool_calls"]:
        click.echo(json.dumps(call, ensure_ascii=False))
    if turn["state"] == "broken":
        tell(f"(incomplete: {turn['error']})")
    elif turn["state"] == "answering":
        tell("(in progress)")
