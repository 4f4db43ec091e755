"""Names in pages, help and messages exist, and their advice is safe."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from mlxd.daemon.config import MODEL_SETTINGS, SETTINGS, TABLES
from mlxd.protocol.methods import METHODS
from support.documented import (
    PACKAGES,
    ROOT,
    code,
    messages,
    pages,
    text_of,
    toml_blocks,
    tracked,
    unknown_parts,
    weakens,
)

HISTORY = ("CHANGELOG.md", "docs/decisions/", "docs/benchmarks/")
"""Pages about the past, which may name things that no longer exist."""

TEMPLATE_KEYS = {"prompt", "system", "options", "description", "model", "schema"}
ELSEWHERE = re.compile(
    r"[~$<.{(/@*-]|https?:|(gui|user)/UID|bsd/|.*[\s*<>|$(){}=…]|(config|conversations|tokenizer|valid|invalid|package)"
    r"\.(toml|db|json)$|mlxd\.(sock|err|log)$|bin/mlxd$|share/$|build/|(utils/)?inference\.py|host/node_modules"
)
"""Spans that are not files of this repository: a user's files, patterns, code."""

ASSIGNMENT = re.compile(r"([a-z]+(?:_[a-z]+)+) = \S.*")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*/|[\w.-]+(/[\w.-]+)+|[\w-]+\.(py|md|toml|json|lua|el|js|sh)")


@pytest.mark.parametrize("page", pages())
def test_every_command_in_a_page_exists_with_its_options(page: str) -> None:
    assert [part for span in code(text_of(page)) for part in unknown_parts(span)] == []


def test_every_command_in_a_message_or_help_exists_with_its_options() -> None:
    found = {
        f"{place}: {part}" for place, text in messages() for part in unknown_parts(text, prose=True)
    }
    assert found == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("mlx ask --nosuch hi", ["mlx ask --nosuch hi: --nosuch"]),
        ("mlx ps --temperature 0", ["mlx ps --temperature 0: --temperature"]),
        ("Use it: mlxd strat", ["mlxd strat"]),
        ("git diff | mlx models pul x", ["mlx models pul"]),
        ('mlx ask "what --does this mean" -m pocket', []),
    ],
)
def test_options_are_checked_against_their_own_command(text: str, found: list[str]) -> None:
    assert [*unknown_parts(text)] == found


def variables_of_the_code() -> set[str]:
    files = [
        name for name in tracked()
        if not name.endswith((".md", "/")) and not name.startswith(("tests/tools/", ".ci"))
    ]  # fmt: skip
    found = {entry.variable for entry in SETTINGS.values()}
    for name in files:
        if (ROOT / name).stat().st_size < 1_000_000:
            raw = re.findall(rb"\bMLXD?_[A-Z_]+", (ROOT / name).read_bytes())
            found |= {variable.decode() for variable in raw}
    return found


def test_every_variable_named_in_a_page_is_read_by_the_code() -> None:
    named = {
        variable for page in pages() for variable in re.findall(r"\bMLXD?_[A-Z_]+\b", text_of(page))
    }
    assert len(named) > 10
    assert named <= variables_of_the_code()


def test_every_setting_in_a_page_exists() -> None:
    strange = set()
    for page in (page for page in pages() if not page.startswith(HISTORY)):
        for block in toml_blocks(text_of(page)):
            strange |= {f"{page}: {key}" for key in _unknown_settings(tomllib.loads(block))}
        # Settings written as `name = value`.
        written = [ASSIGNMENT.fullmatch(span) for span in code(text_of(page))]
        names = {match[1] for match in written if match}
        strange |= {f"{page}: {name}" for name in names - {*SETTINGS, *MODEL_SETTINGS}}
    assert strange == set()


def _unknown_settings(table: dict[str, object]) -> set[str]:
    if "prompt" in table:
        return set(table) - TEMPLATE_KEYS
    unknown = set(table) - {*SETTINGS, *TABLES}
    models = table.get("models", {})
    assert isinstance(models, dict)
    for entry in models.values():
        unknown |= set(entry) - set(MODEL_SETTINGS)
    return unknown


def test_every_method_in_a_page_exists() -> None:
    groups = {name.partition(".")[0] for name in METHODS if "." in name}
    dotted = re.compile(rf"(?:{'|'.join(sorted(groups))})\.[a-z_]+")
    named = {
        (page, name)
        for page in pages()
        if not page.startswith(HISTORY)
        for span in code(text_of(page))
        for name in [
            *re.findall(r"\bmlx rpc ([a-z][a-z._]*)", span),
            *re.findall(r'"method": ?"([^"]+)"', span),
            *([span] if dotted.fullmatch(span) else []),
        ]
        if not name.endswith(".db")
    }
    assert len(named) > 10
    assert {one for one in named if one[1] not in {*METHODS, "event"}} == set()


@pytest.mark.parametrize("page", [page for page in pages() if not page.startswith(HISTORY)])
def test_every_file_named_in_a_page_exists(page: str) -> None:
    known = tracked()
    endings = {name[at + 1 :] for name in known for at in _slashes(name)}
    here = str(Path(page).parent)
    strange = [
        span
        for span in re.findall(r"`([^`\n]+)`", text_of(page))
        if PATH.fullmatch(word := span.split()[0])
        and not ELSEWHERE.match(span)
        and not {word, f"{word}/", f"{here}/{word}"} & known
        and not {word, f"{word}/"} & endings
    ]
    assert strange == []


def _slashes(name: str) -> list[int]:
    return [at for at, char in enumerate(name[:-1]) if char == "/"]


REPOSITORY_PATH = re.compile(
    rf"(?<![\w/.-])(?:docs|tools|tests|scripts|packaging|benchmarks|{'|'.join(PACKAGES)})"
    r"/[\w./-]*\w|\b[A-Z]+\.md\b"
)


def test_no_message_names_a_file_missing_in_an_installation() -> None:
    """A wheel contains the packages, but no docs and no tools."""
    named = {
        f"{place}: {path}"
        for place, text in messages()
        if not place.startswith("daemon/mlxd/daemon/config_doc.py")  # writes a page
        for path in REPOSITORY_PATH.findall(re.sub(r"https?://\S+", "", text))
        if path not in METHODS
    }
    assert named == set()


def test_no_advice_weakens_a_system() -> None:
    said = [*messages()]
    said += [
        (f"{page}:{number}", line)
        for page in pages()
        if page not in ("docs/reliability.md", "CONTRIBUTING.md")  # faults, and tools for them
        for number, line in enumerate(text_of(page).splitlines(), 1)
    ]
    found = [(place, text, why) for place, text in said if (why := weakens(text))]
    assert found == []


@pytest.mark.parametrize(
    "advice",
    ["chmod 777 X", "chmod -R 666 X", "chmod o+w X", "chmod 700 /tmp", "chmod 700 ~", "sudo rm x",
     "rm -rf ~/.cache", "sudo pip install mlx", "curl https://x | sh", "xattr -d x y",
     "spctl --master-disable", "ulimit -c unlimited", "umask 000", "kill -9 1", "sudo chown x",
     "pip install --break-system-packages mlx", "setenforce 0", "export SSL_NO_VERIFY=1"],
)  # fmt: skip
def test_unsafe_advice_is_recognised(advice: str) -> None:
    assert weakens(f"Try this: {advice}")


def test_safe_advice_is_accepted() -> None:
    for advice in ("chmod 600 X", "chmod 700 X/mlxd", "sudo apt install libblis4-pthread",
                   "chmod +x .git/hooks/prepare-commit-msg", "ulimit -n 4096"):  # fmt: skip
        assert weakens(advice) == []


def test_json_examples_in_pages_are_valid() -> None:
    found = [
        (page, example)
        for page in pages()
        if not page.startswith(HISTORY)
        for line in code(text_of(page))
        for example in re.findall(r"""(?<![$\w])\{".*\}""", line)
        if "…" not in example
    ]
    assert len(found) > 10
    for page, example in found:
        assert isinstance(json.loads(example), dict), page
