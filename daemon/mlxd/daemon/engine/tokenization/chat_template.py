"""Compiles chat templates with the rules and the extra functions that transformers gives them.

Templates come from model folders that anybody may have made: they run in Jinja's sandbox, and
change nothing that they are given.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

REPEATED_MAX = 1_000_000
"""Characters or items that `*` may make in a template. Real templates repeat a few characters."""
POWER_MAX_BITS = 10_000
RENDER_TIME_LIMIT_S = 10.0
"""Templates render in milliseconds. All requests would wait for one that loops."""


def compile_template(source: str) -> Template:
    """Return the template. Raises jinja2.TemplateSyntaxError where it is none."""
    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(
        dict=TemplateDict(),
        namespace=TemplateNamespace,
        raise_exception=_raise,
        strftime_now=lambda form: datetime.now().strftime(form),
    )
    return environment.from_string(source)


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which limits ranges, with a limit on products and powers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and (size := _repeated(left, right)) > REPEATED_MAX:
            raise SecurityError(f"{size:,} items are too many for a template")
        if operator == "**" and _power_bits(left, right) > POWER_MAX_BITS:
            raise SecurityError("The power is too large for a template")
        return super().call_binop(context, operator, left, right)


def _repeated(left: Any, right: Any) -> int:
    """Return the length of a sequence that is multiplied by a number; 0 for other products."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | bytes | list | tuple) and isinstance(times, int):
            return len(sequence) * times
    return 0


def _power_bits(base: Any, exponent: Any) -> int:
    if not isinstance(base, int) or not isinstance(exponent, int):
        return 0
    return base.bit_length() * exponent


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training. It renders as is."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Callable[[], str]) -> str:
        return caller()


class TemplateDict:
    """`dict` for templates, without the attributes of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class TemplateNamespace(Namespace):
    """`namespace` for templates; it stores no attribute that Python gives a meaning to."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args  # a template may store a variable named `self`
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(
            "Chat templates cannot store underscore-prefixed attributes on a namespace, "
            f"but got {name!r}. Please rename the attribute."
        )


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON. Jinja's own filter would escape what has a meaning in HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
