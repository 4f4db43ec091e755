"""Template files: prompts for `mlx ask -t NAME`, in the user's configuration folder or built in.

A template is TOML: `prompt` with `{input}` and `{name}` fields, optionally `description`, `system`,
and `[options]` with options of the command line (`temperature = 0.2`, `preset = "code"`).
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from mlxd.client.cli.failures import Misuse
from mlxd.client.cli.groups import did_you_mean
from mlxd.client.fast.options import LOCAL, OPTIONS
from mlxd.protocol.paths import resolve_paths

SHIPPED = Path(__file__).parents[1] / "templates"
FIELD = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "true": (bool,),
    "false": (bool,),
    "span": (int, float),
    "each": (list,),
}
KEYS: dict[str, type] = {"prompt": str, "description": str, "system": str, "options": dict}
NOT_OPTIONS = (LOCAL - {"preset", "extract", "plain"}) | {"conversation", "log"}
ALLOWED = {name: kind.rstrip("*") for name, _, kind, _ in OPTIONS if name not in NOT_OPTIONS}


@dataclass(frozen=True, slots=True)
class Template:
    """A template. `fields` must be given with -p. `options` are options of `mlx ask`."""

    name: str
    path: Path
    prompt: str
    description: str = ""
    system: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def fields(self) -> list[str]:
        texts = self.prompt + (self.system or "")
        return sorted({name for name in FIELD.findall(texts) if name != "input"})


def user_folder() -> Path:
    """Return the folder for the user's templates."""
    return resolve_paths(os.environ).config_dir / "templates"


def names() -> dict[str, Path]:
    """Return the file of each template. The user's templates override the built-in ones."""
    found: dict[str, Path] = {}
    for folder in (SHIPPED, user_folder()):
        if folder.is_dir():
            found |= {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return dict(sorted(found.items()))


def find(name: str) -> Template:
    """Return a template.

    Raises:
        Misuse: the template does not exist, or its file is invalid.
    """
    return read(name, path_of(name))


def path_of(name: str) -> Path:
    """Return a template's file.

    Raises:
        Misuse: the template does not exist.
    """
    known = names()
    if name not in known:
        hint = did_you_mean(name, known).strip() or "List the templates: mlx templates list"
        raise Misuse(f"There is no template {name!r}.", hint=hint)
    return known[name]


def read(name: str, path: Path) -> Template:
    """Read a template's file.

    Raises:
        Misuse: the file is not a valid template.
    """

    def wrong(problem: str) -> Misuse:
        return Misuse(f"{path}: {problem}", hint=f"Correct it: mlx templates edit {name}")

    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise wrong(str(exc)) from exc
    if unknown := found.keys() - KEYS.keys():
        raise wrong(f"unknown key {min(unknown)!r}")
    if "prompt" not in found:
        raise wrong("prompt is missing")
    for key, value in found.items():
        if not isinstance(value, KEYS[key]):
            raise wrong(f"{key} must be a {'table' if KEYS[key] is dict else 'string'}")
    for key, value in found.get("options", {}).items():
        if key not in ALLOWED:
            raise wrong(f"options.{key} is not an option of mlx ask.{did_you_mean(key, ALLOWED)}")
        if not isinstance(value, TYPES[ALLOWED[key]]):
            raise wrong(f"options.{key} must be {TYPES[ALLOWED[key]][-1].__name__}")
    return Template(name, path, **found)


def apply(values: dict[str, Any], text: str) -> str:
    """Return the prompt of the template in `values`. Add its options and system prompt to `values`.

    Options of the command line override those of the template.

    Raises:
        Misuse: a field is missing or unknown.
    """
    template = find(values["template"])
    given = _given(values.get("param", []))
    _check(template, given, text)
    fields = {**given, "input": text}
    if template.system is not None:
        values.setdefault("system", _fill(template.system, fields))
    for name, value in template.options.items():
        values.setdefault(name, value)
    return _fill(template.prompt, fields)


def _given(params: list[str]) -> dict[str, str]:
    given = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals:
            raise Misuse(f"-p {param} must be NAME=VALUE.")
        given[name] = value
    return given


def _check(template: Template, given: dict[str, str], text: str) -> None:
    missing = [name for name in template.fields if name not in given]
    unknown = [name for name in given if name not in template.fields]
    if missing or unknown:
        problem = f"needs {missing[0]}" if missing else f"has no field {unknown[0]!r}"
        hint = (
            f"Give it: -p {missing[0]}=…"
            if missing
            else f"See it: mlx templates show {template.name}"
        )
        raise Misuse(f"The template {template.name} {problem}.", hint=hint)
    if "{input}" in template.prompt and not text.strip():
        raise click.UsageError(f"The template {template.name} needs input: words, -f or stdin.")


def _fill(text: str, fields: dict[str, str]) -> str:
    # In one pass, so that braces in a field's value stay unchanged.
    return FIELD.sub(lambda match: fields.get(match.group(1), match.group(0)), text).strip()
