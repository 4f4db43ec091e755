"""Generates the manual pages and shell completions of the wheel, below `packaging/share`.

python tools/man.py            writes them
python tools/man.py --check    exits 1 where one of them is out of date
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from mlxd.client import cli as client
from mlxd.daemon import cli as daemon
from mlxd.protocol.errors import exit_codes

SHARE = Path(__file__).resolve().parents[1] / "packaging" / "share"
PROGRAMS = {"mlx": client.cli, "mlxd": daemon.cli}
COMPLETIONS = {
    "bash": "bash-completion/completions/{0}",
    "zsh": "zsh/site-functions/_{0}",
    "fish": "fish/vendor_completions.d/{0}.fish",
}
"""Paths below `share` where Homebrew and Linux package managers look."""
SUMMARY_CHARS = 200


def pages(
    command: click.Command, path: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the name and text of a command's manual page, then those of its subcommands."""
    ctx = click.Context(
        command,
        info_name=path.split()[-1],
        parent=parent,
        help_option_names=["-h", "--help"],
    )
    yield f"{path.replace(' ', '-')}.1", "\n".join(_page(ctx, path)) + "\n"
    for name, inner in _subcommands(ctx):
        yield from pages(inner, f"{path} {name}", ctx)


def _page(ctx: click.Context, path: str) -> Iterator[str]:
    command = ctx.command
    title = path.replace(" ", "-")
    summary = command.get_short_help_str(SUMMARY_CHARS).rstrip(".")
    yield f'.TH "{title.upper()}" "1" "" "mlxd" "mlxd manual"'
    yield f".SH NAME\n{_roff(title)} \\- {_roff(summary)}"
    usage = " ".join(command.collect_usage_pieces(ctx))
    yield f".SH SYNOPSIS\n.B {_roff(path)}\n{_roff(usage)}"
    if command.help:
        yield ".SH DESCRIPTION\n" + "\n".join(_paragraphs(command.help))
    records = [param.get_help_record(ctx) for param in command.get_params(ctx)]
    if options := [record for record in records if record is not None and record[1]]:
        yield ".SH OPTIONS"
        yield from (f".TP\n.B {_roff(flags)}\n{_roff(text)}" for flags, text in options)
    if inner := list(_subcommands(ctx)):
        yield ".SH COMMANDS"
        for name, one in inner:
            yield f".TP\n.BR {_roff(f'{title}-{name}')} (1)"
            yield _roff(one.get_short_help_str(SUMMARY_CHARS))
    if command.epilog:
        yield ".SH NOTES\n" + "\n".join(_paragraphs(command.epilog))
    yield f".SH EXIT STATUS\n{_roff(exit_codes())}."
    if ctx.parent is not None:
        yield f".SH SEE ALSO\n.BR {_roff(ctx.parent.command_path.replace(' ', '-'))} (1)"


def _subcommands(ctx: click.Context) -> Iterator[tuple[str, click.Command]]:
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            inner = ctx.command.get_command(ctx, name)
            if inner is not None and not inner.hidden:
                yield name, inner


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help text. Paragraphs marked with \b keep their lines."""
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        yield ".PP"
        if part.startswith("\b"):
            yield f".nf\n{_roff(part.removeprefix(chr(8)).strip(chr(10)))}\n.fi"
        else:
            yield _roff(" ".join(part.split()))


def _roff(text: str) -> str:
    """Escape the characters of a text that are special to roff."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    # groff reads Latin-1 unless it is told otherwise, and refuses some bytes of UTF-8.
    escaped = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in escaped)
    return re.sub(r"(?m)^([.'])", r"\\&\1", escaped)


def completions() -> Iterator[tuple[str, str]]:
    """Yield the path and text of each program's completion script for each shell."""
    for program, cli in PROGRAMS.items():
        for shell, place in COMPLETIONS.items():
            kind = get_completion_class(shell)
            assert kind is not None
            script = kind(cli, {}, program, f"_{program.upper()}_COMPLETE")
            text = script.source_template % script.source_vars()
            yield place.format(program), text.strip() + "\n"


def files() -> dict[Path, str]:
    """Return every generated file below `packaging/share` with its text."""
    manual = (page for name, cli in PROGRAMS.items() for page in pages(cli, name))
    found = {SHARE / "man" / "man1" / name: text for name, text in manual}
    return found | {SHARE / place: text for place, text in completions()}


def stale() -> list[Path]:
    """Return the files that are missing, out of date, or belong to no command."""
    wanted = files()
    there = {path for path in SHARE.rglob("*") if path.is_file()}
    differing = [p for p in wanted if p in there and p.read_text(encoding="utf-8") != wanted[p]]
    return sorted([*differing, *(there ^ wanted.keys())])


def main() -> None:
    """Write the files, or check them."""
    if "--check" in sys.argv:
        sys.exit("\n".join(str(path) for path in stale()) or 0)
    for path in stale():
        path.unlink(missing_ok=True)
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
