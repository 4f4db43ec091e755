"""Compiles chat templates with the same rules and extra functions as transformers.

Templates come from model folders, which anyone may have made. They run in Jinja's sandbox and
cannot change their arguments.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import Template, TemplateError, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mlxd.daemon.engine.tokenization.template_limits import (
    Budget,
    check_method,
    formatted,
    limited_filter,
    listed,
)

REPEATED_MAX = 1_000_000
"""Limit on characters or items that `*` may create in a template. Real templates repeat a few
characters."""
POWER_MAX_BITS = 10_000
"""Of a power or product. Python multiplies longer ones for minutes, and nothing interrupts it."""
TIME_FORMAT_MAX = 256
ASSIGNMENT_BYTES = 128
"""Charged for an assignment to a namespace: a small list or dictionary takes as much."""
RENDER_TIME_LIMIT_S = 10.0
"""Templates render in milliseconds. One that loops would block all requests."""


def compile_template(source: str) -> Template:
    """Return the compiled template. Raises jinja2.TemplateSyntaxError."""
    environment = Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[Generation, "jinja2.ext.loopcontrols"],
    )
    return environment.from_string(source)


class LimitedTemplate(Template):
    """A template whose rendering has a budget."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        environment = self.environment
        assert isinstance(environment, Sandbox)
        environment.budget.begin([list(args), kwargs])
        return super().render(*args, **kwargs)


class LimitedCode(CodeGenerator):
    """Leaves slices and `~` to the environment, which limits them."""

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:  # noqa: N802
        if isinstance(node.arg, nodes.Slice):
            self.write("environment.budget.made(")
            super().visit_Getitem(node, frame)
            self.write(")")
        else:
            super().visit_Getitem(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which limits ranges, with limits on everything else that takes memory."""

    intercepted_binops = frozenset({"+", "%", "*", "**"})
    template_class = LimitedTemplate
    code_generator_class = LimitedCode

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.budget = budget = Budget()
        self.finalize = budget.printable
        # Jinja annotates it as a static method.
        self.concat = budget.concat  # type: ignore[method-assign]
        self.filters["tojson"] = _to_json
        self.filters = {
            name: limited_filter(name, function, budget) for name, function in self.filters.items()
        }
        self.globals = {
            "range": self.globals["range"],
            "cycler": self.globals["cycler"],
            "joiner": self.globals["joiner"],
            "dict": TemplateDict(),
            "namespace": functools.partial(TemplateNamespace, budget),
            "raise_exception": _raise,
            "strftime_now": _time,
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*" and (size := _repeated(left, right)) > REPEATED_MAX:
            raise SecurityError(f"{size:,} items are too many for a template")
        if operator == "**" and _power_bits(left, right) > POWER_MAX_BITS:
            raise SecurityError("The power is too large for a template")
        if operator == "*" and _product_bits(left, right) > POWER_MAX_BITS:
            raise SecurityError("The product is too large for a template")
        if operator == "%" and isinstance(left, str):
            self.budget.check(formatted(left, right))
        return self.budget.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        # Named as Jinja names them: a template may pass an argument called `self`.
        given = listed(args, __self.budget)
        check_method(__obj, given, kwargs, __self.budget)
        return __self.budget.made(super().call(__context, __obj, *given, **kwargs))

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text, budget = value.__self__, self.budget

        def limited(*args: Any, **kwargs: Any) -> Any:
            budget.check(formatted(text, *args, **kwargs))
            return wrapped(*args, **kwargs)

        return limited

    def joined(self, parts: tuple[Any, ...]) -> str:
        """Return what `~` makes."""
        return self.budget.concat(str(self.budget.printable(part)) for part in parts)


def _repeated(left: Any, right: Any) -> int:
    """Return the length of a sequence that is multiplied by a number, or 0 for other products."""
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, str | bytes | list | tuple) and isinstance(times, int):
            return len(sequence) * times
    return 0


def _power_bits(base: Any, exponent: Any) -> int:
    if not isinstance(base, int) or not isinstance(exponent, int):
        return 0
    return base.bit_length() * exponent


def _product_bits(left: Any, right: Any) -> int:
    if not isinstance(left, int) or not isinstance(right, int):
        return 0
    return left.bit_length() + right.bit_length()


def _time(form: str) -> str:
    if len(form) > TIME_FORMAT_MAX:
        raise SecurityError("The format of a time is too long")
    return datetime.now().strftime(form)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks answers for training. Its content renders
    unchanged."""

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
    """`namespace` for templates. It stores no attribute that Python treats specially.

    All that a loop can keep is in a namespace, so that assignments are charged to the budget.
    """

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, budget, *given = args  # a template may store a variable named `self`
        values = dict(*given, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)
        object.__setattr__(self, "_TemplateNamespace__budget", budget)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        object.__getattribute__(self, "_TemplateNamespace__budget").charge(ASSIGNMENT_BYTES)
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
    """Return JSON. Jinja's own filter would escape HTML characters."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)
