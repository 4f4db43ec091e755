"""Limits on time and memory of chat templates, which callers and model folders provide."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2.exceptions import SecurityError

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.mlx_lm_private import hf_tokenizer
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt
from mlxd.daemon.engine.tokenization import chat_renderer, light_tokenizer, template_limits
from mlxd.daemon.engine.tokenization.chat_template import compile_template
from mlxd.daemon.engine.tokenization.light_tokenizer import LightTokenizer
from mlxd.daemon.engine.tokenization.time_limit import time_limit
from mlxd.daemon.engine.tokenization.tokenizer import Tokenizer
from mlxd.protocol.errors import InvalidParams
from support.engine_process import POCKET

ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{{ messages[0].content }}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10000000000 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ [1] * 10000000000 }}",
        "{{ 9 ** 999999999 }}",
    ],
)
def test_products_and_powers_that_need_much_memory_are_refused(source: str) -> None:
    with pytest.raises(SecurityError):
        compile_template(source).render()


def test_ordinary_products_and_powers_work() -> None:
    assert (
        compile_template("{{ 'ab' * 3 }}{{ 10 ** 6 * 10 ** 6 }}").render()
        == "ababab" + "1" + "0" * 12
    )


def test_a_chat_template_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (light_tokenizer, chat_renderer):
        monkeypatch.setattr(module, "RENDER_TIME_LIMIT_S", 0.2)
    tokenizer = Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())
    params = {
        "messages": [{"role": "user", "content": "hi"}],
        "template_kwargs": {"chat_template": ENDLESS},
    }
    with pytest.raises(InvalidParams, match="chat template of pocket did not render"):
        tokenizer.chat.text(ChatPrompt.from_map(params))


DOUBLED = (
    "{% set ns = namespace(x=['ab']) %}{% for i in range(40) %}{% set ns.x = BODY %}{% endfor %}"
)


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a'.rjust(3000000000) }}",
        "{{ 'a'|center(3000000000) }}",
        "{{ '\t'.expandtabs(3000000000) }}",
        "{{ 'a\nb'|indent(3000000000) }}",
        "{{ {'a': 1}|tojson(indent=3000000000) }}",
        "{{ [1]|batch(3000000000, 'x')|list }}",
        "{{ (1).to_bytes(3000000000, 'big') }}",
        "{{ range(1000000000)|list }}",
        "{{ '%3000000000d' % 1 }}",
        "{{ '%*d' % (3000000000, 1) }}",
        "{{ '%3000000000d'|format(1) }}",
        "{{ '{:>3000000000}'.format(1) }}",
        "{{ '{:{}}'.format('a', 3000000000) }}",
        "{{ ('{0}'*100000).format('a'*1000000) }}",
        "{{ ('%(a)s'*100000) % {'a': 'a'*1000000} }}",
        "{{ ','.join(['a'*1000000]*1000) }}",
        "{{ (['a'*1000000]*1000)|select|join }}",
        "{{ ('a'*1000000).replace('', 'b'*1000) }}",
        "{% set a = 'a'*1000000 %}{% for i in range(99999) %}{{ a }}{% endfor %}",
        "{% set a = 'a'*1000000 %}{% set ns = namespace(x=0) %}"
        "{% for i in range(99999) %}{% set ns.x = [ns.x, a[1:]] %}{% endfor %}",
        DOUBLED.replace("BODY", "ns.x + ns.x"),
        DOUBLED.replace("BODY", "ns.x ~ ns.x"),
        DOUBLED.replace("BODY", "[ns.x, ns.x]") + "{{ ns.x }}",
        DOUBLED.replace("BODY", "[ns.x, ns.x]") + "{{ ns.x|tojson }}",
        "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}"
        "{% endfor %}",
    ],
)
def test_a_template_that_makes_too_much_is_refused_before_it_takes_the_memory(source: str) -> None:
    # Most would take gigabytes, or more than there is. Some are refused by Jinja itself.
    with pytest.raises((SecurityError, OverflowError)):
        compile_template(source).render()


def test_templates_may_copy_a_long_conversation_several_times() -> None:
    source = (
        "{% set ns = namespace(all='') %}{% for m in messages %}{% set text = m.content.strip() %}"
        "{% set ns.all = ns.all + '<|' ~ m.role ~ '|>' + text.split('|')[-1] %}"
        "{{ '<|' + m.role + '|>\\n' + text|trim + '\\n' }}{% endfor %}{{ ns.all|length }}"
    )
    messages = [{"role": "user", "content": "long word " * 2_000_000}]
    assert len(compile_template(source).render(messages=messages)) > 20_000_000


TEXTS = st.sampled_from(["'ab'", "'é\\n\\t'", "'%s%9d'", "'{0}{0:>9}'", "s", "ns.x"])
NUMBERS = st.sampled_from(["7", "300", "99999", "3000000000", "i"])
LISTS = st.sampled_from(["[s, s]", "[[1, 2], s]", "{'a': s}", "range(99999)|list", "[ns.x, ns.x]"])
OPERATIONS = st.sampled_from(
    [
        "({0} + {1})", "({0} * {2})", "({0} ~ {1})", "({0} % {1})", "({2} ** {2})", "{0}[1:]",
        "{0}.rjust({2})", "{0}.ljust({2}, 'x')", "{0}.center({2})", "{0}.zfill({2})",
        "{0}.join([{1}, {1}])", "{0}.join(s)", "{0}.replace('', {1})", "{0}.replace('a', {1})",
        "{0}.expandtabs({2})", "{0}.format({1}, {2})", "{0}.split('a')", "{0}.splitlines()",
        "{0}.encode()", "{0}|list", "{0}|join({1})", "{0}|string", "{0}|tojson", "{0}|pprint",
        "{0}|tojson(indent={2})", "{0}|indent({2})", "{0}|center({2})", "{0}|replace('a', {1})",
        "{0}|format({1})", "{0}|batch({2}, {1})|list", "{0}|slice({2})|list", "{0}|urlencode",
        "{0}|wordwrap(1, wrapstring={1})", "[{0}, {1}]|map('upper')|join({1})", "{0}|reverse|list",
        "[{0}]|sum(start=[])", "[{0}, {1}]|sort|join", "{0}|escape", "dict(a={0}, b={1})",
    ]
)  # fmt: skip


def _applied(parts: tuple[str, str, str, str]) -> str:
    operation, first, second, number = parts
    return operation.replace("{0}", first).replace("{1}", second).replace("{2}", number)


EXPRESSIONS = st.recursive(
    TEXTS | LISTS,
    lambda inner: st.tuples(OPERATIONS, inner, inner, NUMBERS).map(_applied),
    max_leaves=6,
)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(first=EXPRESSIONS, kept=EXPRESSIONS, shown=EXPRESSIONS)
def test_no_template_takes_more_memory_than_its_budget(first: str, kept: str, shown: str) -> None:
    source = (
        f"{{% set ns = namespace(x='ab') %}}{{% set i = 2 %}}{{% set ns.x = {first} %}}"
        f"{{% for i in range(30) %}}{{% set ns.x = {kept} %}}{{{{ {shown} }}}}{{% endfor %}}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(template_limits, "BASE_BYTES", 2**21)
        tracemalloc.start()
        try:
            with time_limit(1.0):
                compile_template(source).render(s="aé b" * 500)
        except Exception:  # a template may be wrong in any way
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert peak < 48 * 2**20, source


def test_transformers_limits_templates_too() -> None:
    tokenizer = Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())
    inner = hf_tokenizer(tokenizer.wrapper)
    tokenizer.wrapper._tokenizer = inner.whole() if isinstance(inner, LightTokenizer) else inner
    params = {
        "messages": [{"role": "user", "content": "hi"}],
        "template_kwargs": {"chat_template": "{{ 'a'.rjust(3000000000) }}"},
    }
    _, notes = tokenizer.chat.text(ChatPrompt.from_map(params))
    assert "more text than templates may" in notes[0]
