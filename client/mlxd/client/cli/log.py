"""`mlx log`: the stored conversations."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from mlxd.client.cli.batch_files import output_of
from mlxd.client.cli.completion import complete_conversations
from mlxd.client.cli.daemon import connect
from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import Group
from mlxd.client.cli.tables import ago, print_table
from mlxd.client.cli.terminal import Answer, tell, visible
from mlxd.client.fast.text import scope

Record = dict[str, Any]
EXPORT_LIMIT = 10_000
"""The most that `conversations.list` returns."""


@click.group(
    cls=Group,
    epilog="\b\nGo on with one: mlx ask --conversation ID …, or mlx chat --conversation ID\n",
)
def log() -> None:
    """The conversations that are stored on this machine."""


@log.command("list")
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, help="How many.")
@click.option("--here", is_flag=True, help="Only those of this terminal (or folder).")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_conversations(limit: int, here: bool, as_json: bool) -> None:
    """List the last conversations, the newest first."""
    asked = {"scope": scope()} if here else {}
    with connect() as client:
        found = client.request("conversations.list", limit=limit, **asked)["conversations"]
    _print_records(found, as_json=as_json, none="Nothing is stored yet.")


@log.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=20, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def search(words: tuple[str, ...], limit: int, as_json: bool) -> None:
    """Find conversations in which all WORDS occur."""
    with connect() as client:
        found = client.request("conversations.search", query=" ".join(words), limit=limit)
    _print_records(found["conversations"], as_json=as_json, none="Nothing was found.")


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
    """Write every conversation to FILE, or stdout: one JSON object per line, the oldest first."""
    target = output_of(file)
    if target.path is not None and target.resumable and target.path.exists():
        raise Misuse(f"{file} exists.", hint="Name another file.")
    with connect() as client:
        found = client.request("conversations.list", limit=EXPORT_LIMIT)["conversations"]
        with target.opened() as out:
            for record in reversed(found):
                whole = client.request("conversations.show", id=record["id"])
                out.write(json.dumps(whole, ensure_ascii=False) + "\n")
    tell(f"{len(found)} conversations exported.")
    if len(found) == EXPORT_LIMIT:
        tell(f"mlx: Only the last {EXPORT_LIMIT} conversations can be exported.")


@log.command()
@click.argument("conversations", nargs=-1, metavar="[ID]...", shell_complete=complete_conversations)
@click.option("--all", "everything", is_flag=True, help="Every conversation.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
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
        raise click.UsageError("Nothing was asked here yet. Give an id: mlx log list")
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
        tell(f"(broke off: {turn['error']})")
    elif turn["state"] == "answering":
        tell("(is being answered)")
