"""What a template may cost: it comes from a caller, or from a folder that anybody made."""

from __future__ import annotations

import pytest
from jinja2.exceptions import SecurityError

from mlxd.daemon.engine.constraints.compiler import compile_pool
from mlxd.daemon.engine.model_ref import ModelRef
from mlxd.daemon.engine.prompt import ChatPrompt
from mlxd.daemon.engine.tokenization import light_tokenizer
from mlxd.daemon.engine.tokenization.chat_template import compile_template
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


def test_a_template_that_does_not_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(light_tokenizer, "RENDER_TIME_LIMIT_S", 0.2)
    tokenizer = Tokenizer(ModelRef("pocket", str(POCKET)), compile_pool())
    params = {
        "messages": [{"role": "user", "content": "hi"}],
        "template_kwargs": {"chat_template": ENDLESS},
    }
    with pytest.raises(InvalidParams, match="chat template of pocket did not render"):
        tokenizer.chat.text(ChatPrompt.from_map(params))
