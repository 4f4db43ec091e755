"""The light tokenizer equals that of transformers, or leaves the folder to transformers."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import AutoTokenizer

from mlxd.daemon.engine.tokenization.light_tokenizer import MODEL_TYPES, LightTokenizer, load
from support import tokenizer_report
from support.engine_process import POCKET, engine_environment

SPECIAL = ("<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>")
TEXTS = (
    "",
    " ",
    "Hello, world!\n\n  Two  spaces .",
    "naïve café 漢字 🙂👍🏽 \u200b\u0000\ufffd",
    "<|im_start|>user\nhi<|im_end|>\n<s>a</s> <|user|> b<|assistant|>",
    "don't 've 12345 ▁x <0x41>\r\n\t",
)
USER: dict[str, Any] = {"role": "user", "content": "What is 2 + 2?"}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": [1, None, "é"]}}}
CONVERSATIONS: list[list[dict[str, Any]]] = [
    [USER],
    [{"role": "system", "content": "Be <brief> & 'kind'.\n"}, USER],
    [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, USER],
    [USER, {"role": "assistant", "content": "4", "reasoning": "two and two"}, USER],
    [USER, {"role": "assistant", "content": "  Let me see: "}],
    [USER, {"role": "system", "content": "too late"}],
    [USER, {"role": "assistant", "content": ""}],
    [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}],
]
TOOLS = [{"type": "function", "function": {"name": "add", "description": "d", "parameters": {
    "type": "object", "properties": {"a": {"type": "array"}, "b": {"enum": [1]}}}}}]  # fmt: skip
TEMPLATE = """{% set ns = namespace(count=0, self=1) %}
{%- for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.role == 'skip' %}{% continue %}{% endif %}
    {%- if ns.count > 3 %}{% break %}{% endif %}
    {% generation %}
{{ bos_token }}{{ ns.count }} <{{ message.role }}> {{ message.content | trim }}
    {%- endgeneration %}
    {{- message.reasoning_content }}{{ message.thinking }}
    {{- message | tojson }}{{ message | tojson(indent=2, sort_keys=true) }}
    {{- dict(a=1).items() | list }}
{% endfor %}
{% if tools %}{{ tools | tojson(separators=(',', ':')) }}{% endif %}
{{ strftime_now('%Y') }}{{ documents is none }}{{ eos_token }}{{ level }}{{ enable_thinking }}
{%- if add_generation_prompt %}<assistant>{% endif %}
"""
HOSTILE = (
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
    "{{ namespace(_a=1) }}",
    "{{ dict.__class__() }}",
    "{{ messages.append(1) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ unknown_function() }}",
    "{% for %}",
    "{{ messages[0].content + 1 }}",
)


def change_config(folder: Path, **changes: Any) -> None:
    """Change `tokenizer_config.json`; a value of ... removes the key."""
    path = folder / "tokenizer_config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: each for key, each in config.items() if each is not ...}))


def set_model_type(folder: Path, model_type: str, **more: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "model_type": model_type, **more}
    path.write_text(json.dumps(config))


def as_shipped(folder: Path) -> None:
    """Keep the built-in model's tokenizer unchanged."""


def with_decoder(folder: Path) -> None:
    """List the added tokens a second time, as most folders do."""
    added = Tokenizer.from_file(str(folder / "tokenizer.json")).get_added_tokens_decoder()
    listed = {
        index: {"content": token.content, **{
            name: getattr(token, name)
            for name in ("lstrip", "normalized", "rstrip", "single_word", "special")
        }}
        for index, token in added.items()
    }  # fmt: skip
    end = {"__type": "AddedToken", **listed[2]}
    change_config(folder, added_tokens_decoder=listed, eos_token=end)
    (folder / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def without_template(folder: Path) -> None:
    change_config(folder, chat_template=..., tokenizer_class="TokenizersBackend")


def vocabulary_words() -> list[str]:
    letters = [chr(code) for code in range(33, 127)]
    return [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, "▁the", "he"]


def write_tokenizer(folder: Path, tokenizer: Tokenizer, **more: Any) -> None:
    """Write another tokenizer into the folder, with special tokens of several kinds."""
    tokenizer.add_special_tokens([*SPECIAL[:3], AddedToken("<|user|>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("<|assistant|>", normalized=True), "▁▁▁"])
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", start)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": {"__type": "AddedToken", "content": "<unk>", "special": True},
        "extra_special_tokens": ["<|user|>"],
        "chat_template": TEMPLATE,
        "add_bos_token": True,
        "model_max_length": 4096,
        **more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    set_model_type(folder, "llama", bos_token_id=0, eos_token_id=1)


def sentencepiece(folder: Path) -> None:
    """Write a tokenizer like that of Llama 2, Gemma and Mistral, with byte fallback."""
    vocabulary = {word: index for index, word in enumerate(vocabulary_words())}
    merges = [("h", "e")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    write_tokenizer(folder, tokenizer, clean_up_tokenization_spaces=True)


def unigram(folder: Path) -> None:
    scored = [(word, -float(index)) for index, word in enumerate(vocabulary_words())]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    write_tokenizer(folder, tokenizer)


def wordpiece(folder: Path) -> None:
    vocabulary = {word: index for index, word in enumerate([*vocabulary_words(), "##e", "##t"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    write_tokenizer(folder, tokenizer, clean_up_tokenization_spaces=False)


Change = Callable[[Path], object]
COVERED: list[Change] = [
    as_shipped, with_decoder, without_template, sentencepiece, unigram, wordpiece,
]  # fmt: skip


def model_folder(folder: Path, change: Change) -> Path:
    """Create a model folder without weights, which no tokenizer reads."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((POCKET / name).read_bytes())
    change(folder)
    return folder


def refuse() -> Any:
    raise AssertionError("transformers was used")


@pytest.fixture(scope="module", params=COVERED, ids=lambda change: change.__name__)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[LightTokenizer, Any]:
    """Return the light tokenizer of a folder and that of transformers."""
    folder = model_folder(tmp_path_factory.mktemp("covered") / "model", request.param)
    light = load(folder, refuse)
    assert light is not None
    return light, AutoTokenizer.from_pretrained(folder)


def outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as exc:
        return type(exc).__name__, str(exc)


def check_text(light: LightTokenizer, whole: Any, text: str) -> None:
    for add in (True, False):
        ids = whole.encode(text, add_special_tokens=add)
        assert light.encode(text, add_special_tokens=add) == ids
        for skip in (True, False):
            decoded = whole.decode(ids, skip_special_tokens=skip)
            assert light.decode(ids, skip_special_tokens=skip) == decoded


def test_encode_and_decode_equal_transformers(pair: tuple[LightTokenizer, Any]) -> None:
    light, whole = pair
    for text in TEXTS:
        check_text(light, whole, text)

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.text(st.characters(exclude_categories=["Cs"])))
    def any_text(text: str) -> None:
        check_text(light, whole, text)

    any_text()


def test_random_ids_decode_as_in_transformers(pair: tuple[LightTokenizer, Any]) -> None:
    light, whole = pair
    draw = random.Random(5)
    for _ in range(100):
        ids = [draw.randrange(len(whole)) for _ in range(draw.randrange(8))]
        assert light.decode(ids) == whole.decode(ids)
        assert light.convert_ids_to_tokens(ids) == whole.convert_ids_to_tokens(ids)
    assert light.decode(3) == whole.decode(3)


def test_vocabulary_and_special_tokens_equal_transformers(
    pair: tuple[LightTokenizer, Any],
) -> None:
    light, whole = pair
    assert len(light) == len(whole)
    assert light.get_vocab() == whole.get_vocab()
    assert light.special_tokens_map == whole.special_tokens_map
    for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"):
        for attribute in (f"{name}_token", f"{name}_token_id"):
            assert getattr(light, attribute) == getattr(whole, attribute)
    assert light.chat_template == whole.chat_template
    assert light.add_bos_token == whole.add_bos_token
    tokens = [*SPECIAL, "no such token"]
    assert light.convert_tokens_to_ids(tokens) == whole.convert_tokens_to_ids(tokens)
    assert light.backend_tokenizer.to_str().count("added_tokens") == 1


OPTIONS: list[dict[str, Any]] = [
    {"add_generation_prompt": True},
    {"add_generation_prompt": False, "enable_thinking": True},
    {"continue_final_message": True},
    {"add_generation_prompt": True, "level": {"a": [1]}, "bos_token": "other"},
]


def test_chat_templates_give_the_same_text_or_error_as_transformers(tmp_path: Path) -> None:
    for change in (as_shipped, with_decoder, sentencepiece):
        folder = model_folder(tmp_path / change.__name__, change)
        whole = AutoTokenizer.from_pretrained(folder)
        light = load(folder, partial(AutoTokenizer.from_pretrained, folder))
        assert light is not None
        for conversation in CONVERSATIONS:
            for options in OPTIONS:
                for tools in (None, TOOLS):
                    given = {**options, "tools": tools, "tokenize": False, "return_dict": False}
                    texts = [
                        outcome(partial(one.apply_chat_template, conversation, **given))
                        for one in (light, whole)
                    ]
                    assert texts[0] == texts[1]


def test_ordinary_chat_templates_render_without_transformers() -> None:
    light = load(POCKET, refuse)
    assert light is not None
    for options in OPTIONS[:3]:
        for conversation in CONVERSATIONS[:5:4]:
            text = light.apply_chat_template(conversation, TOOLS, tokenize=False, **options)
            assert "2 + 2" in text


@pytest.mark.parametrize("template", HOSTILE)
def test_hostile_templates_fail_as_in_transformers(template: str, tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path / "model", lambda path: change_config(path, chat_template=template)
    )
    whole = AutoTokenizer.from_pretrained(folder)
    light = load(folder, refuse)
    assert light is not None
    failed = outcome(lambda: whole.apply_chat_template([USER], tokenize=False))
    assert isinstance(failed, tuple), "the template was harmless"
    assert outcome(lambda: light.apply_chat_template([USER], tokenize=False)) == failed


def test_rare_tokenizer_calls_are_delegated_to_transformers() -> None:
    light = load(POCKET, lambda: AutoTokenizer.from_pretrained(POCKET))
    whole = AutoTokenizer.from_pretrained(POCKET)
    assert light is not None
    assert light.all_special_ids == whole.all_special_ids
    assert light.encode("a b", truncation=True, max_length=2) == whole.encode("a b")[:2]
    assert light.apply_chat_template([USER], return_dict=False) == whole.apply_chat_template(
        [USER], return_dict=False
    )
    with pytest.raises(AttributeError):
        _ = light.no_such_attribute


def change_tokenizer_json(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_decoder(folder: Path) -> None:
    with_decoder(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["1"]["lstrip"] = True
    change_config(folder, **config)


def more_templates(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()


def cleaned_wordpiece(folder: Path) -> None:
    wordpiece(folder)
    change_config(folder, clean_up_tokenization_spaces=True)


TRUNCATED = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
LEFT_TO_TRANSFORMERS: dict[str, Change] = {
    "another class": lambda path: change_config(path, tokenizer_class="Qwen2Tokenizer"),
    "no class": lambda path: change_config(path, tokenizer_class=...),
    "code of its own": lambda path: change_config(path, auto_map={"AutoTokenizer": ["a.B", None]}),
    "an unknown key": lambda path: change_config(path, split_special_tokens=True),
    "a special token that must be added": lambda path: change_config(path, eos_token="<end>"),
    "an extra token to add": lambda path: change_config(path, extra_special_tokens=["<a>"]),
    "extra tokens with names": lambda path: change_config(path, extra_special_tokens={"a": "b"}),
    "several templates": lambda path: change_config(
        path, chat_template=[{"name": "default", "template": "{{ messages }}"}]
    ),
    "templates in a folder": more_templates,
    "another list of added tokens": other_decoder,
    "a list of special tokens": lambda path: (path / "special_tokens_map.json").write_text("{}"),
    "a special token in no known form": lambda path: change_config(
        path, eos_token={"content": "<|im_end|>"}
    ),
    "truncation": lambda path: change_tokenizer_json(path, truncation=TRUNCATED),
    "spaces that are cleaned up": cleaned_wordpiece,
    "a model type that replaces the class": lambda path: set_model_type(path, "qwen2"),
    "damage": lambda path: (path / "tokenizer.json").write_text('{"version": "1.0"'),
    "no tokenizer": lambda path: (path / "tokenizer.json").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_TO_TRANSFORMERS)
def test_load_returns_none_for_folders_that_need_transformers(what: str, tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", lambda path: None)
    assert load(folder, refuse) is not None
    LEFT_TO_TRANSFORMERS[what](folder)
    assert load(folder, refuse) is None


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_listed_model_types_use_the_tokenizer_file_in_transformers_too(
    model_type: str, tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "model", lambda path: set_model_type(path, model_type))
    whole = AutoTokenizer.from_pretrained(folder)
    assert type(whole).__name__ == "TokenizersBackend"
    light = load(folder, refuse)
    assert light is not None
    check_text(light, whole, TEXTS[2])


def test_mlx_lm_gets_the_same_tokenizer_with_and_without_transformers(tmp_path: Path) -> None:
    changes = {change.__name__: change for change in COVERED}
    changes["qwen"] = LEFT_TO_TRANSFORMERS["another class"]
    folders = [str(model_folder(tmp_path / name, change)) for name, change in changes.items()]
    done = subprocess.run(
        [sys.executable, tokenizer_report.__file__, *folders],
        env=engine_environment(), capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    without = json.loads(done.stdout)
    kinds = [without[folder].pop("kind") for folder in folders]
    assert kinds == ["LightTokenizer"] * len(COVERED) + ["Qwen2Tokenizer"]
    heavy = [without[folder].pop("heavy") for folder in folders]
    assert heavy == [[]] * len(COVERED) + [["huggingface_hub", "transformers"]]
    for folder in folders:
        here = json.loads(json.dumps(tokenizer_report.report(folder)))
        assert here.pop("kind") != "LightTokenizer"
        assert here.pop("heavy"), "transformers is imported here"
        assert without[folder] == here
