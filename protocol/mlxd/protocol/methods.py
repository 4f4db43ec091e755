"""The method table: every method, its parameters and their defaults. The one source of truth.

Validation, `SPEC.md`, help texts and client signatures follow from it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from mlxd.protocol.errors import InvalidParams, MethodNotFound
from mlxd.protocol.messages import Params
from mlxd.protocol.params import REQUIRED, Param, function_of

DEFAULT_MAX_TOKENS = 512
PRIORITIES = ("interactive", "completion", "batch")

MODEL = Param(
    "model", "string", "Name, alias, Hugging Face id or folder; absent: the default model."
)

SAMPLING: tuple[Param, ...] = (
    Param("max_tokens", "integer", "The most tokens to emit.", DEFAULT_MAX_TOKENS, 1, 2**20),
    Param("temperature", "number", "Randomness; 0 is greedy.", 0.7, 0, 10),
    Param("top_p", "number", "Keep the most likely tokens up to this mass; 1: all.", 0.95, 0, 1),
    Param(
        "top_k",
        "integer",
        "Keep this many of the most likely tokens; 0 or -1: all.",
        0,
        -1,
        2**20,
    ),
    Param("min_p", "number", "Drop tokens below this share of the best one; 0: none.", 0.0, 0, 1),
    Param("min_tokens_to_keep", "integer", "What min_p always keeps.", 1, 1, 2**20),
    Param(
        "repetition_penalty",
        "number",
        "Divides the logits of repeated tokens; 1: none.",
        1.0,
        0.01,
        10,
    ),
    Param(
        "repetition_context_size",
        "integer",
        "Tokens that the penalties look back on.",
        20,
        1,
        2**20,
    ),
    Param("presence_penalty", "number", "Subtracted once from tokens that occurred.", 0.0, -10, 10),
    Param("frequency_penalty", "number", "Subtracted for every occurrence.", 0.0, -10, 10),
    Param("xtc_probability", "number", "Chance of excluding the top choices.", 0.0, 0, 1),
    Param("xtc_threshold", "number", "Probability from which XTC excludes.", 0.1, 0, 0.5),
    Param("logit_bias", "logit bias", "Token id to a number added to its logit."),
    Param(
        "seed",
        "integer",
        "Makes sampling repeatable, alone or in a batch; -1: a random one.",
        None,
        -1,
        2**63 - 1,
    ),
    Param("stop", "strings", "Text that ends the answer and is left out of it."),
    Param("n", "integer", "How many answers to one prompt.", 1, 1, 64),
    Param(
        "logprobs",
        "logprobs",
        "Report log-probabilities; a number: with that many alternatives.",
        -1,
        -1,
        20,
    ),
    Param("ignore_eos", "boolean", "Go on past the end token until max_tokens.", False),
    Param("schema", "schema", "JSON Schema that the answer satisfies."),
    Param("regex", "string", "Regular expression that the answer matches."),
    Param("grammar", "string", "Lark grammar that the answer follows."),
    Param("thinking", "boolean", "Ask the chat template for reasoning, or for none."),
)

DELIVERY: tuple[Param, ...] = (
    Param("stream", "boolean", "Send `event` notifications before the response.", False),
    Param("tag", "message id", "Put into events as `id`, and accepted by cancel."),
    Param("priority", "string", "Scheduling class.", None, choices=PRIORITIES),
    Param("deadline_s", "number", "Seconds after which the request fails.", None, 0.001, 86_400),
    Param("supersede", "string", "Key: the newest request of this user with it wins."),
    Param(
        "keep_alive_s",
        "number",
        "Seconds the model stays warm afterwards; -1: forever.",
        None,
        -1,
        2**31,
    ),
    Param("adapter", "string", "LoRA adapter: folder or configured name."),
    Param("draft", "string", "Smaller model that proposes tokens for this one to check."),
    Param(
        "trust_remote_code",
        "boolean",
        "Run the model's own code; only where the configuration allows it.",
        False,
    ),
)

TOOL_CHOICE = Param(
    "tool_choice",
    "tool choice",
    "`auto`, `none`, `required`, or the name of the tool that must be called.",
    "auto",
)
SPECIAL_TOKENS_IN_TEXT = Param(
    "special_tokens_in_text",
    "boolean",
    "Let control tokens that are written out in the given text have their effect.",
    False,
)

CONVERSATION: tuple[Param, ...] = (
    Param("conversation", "string", "Stored conversation: an id, `last` (of the scope), or `new`."),
    Param("scope", "string", "Where it belongs: a terminal or a folder."),
    Param(
        "log",
        "boolean",
        "Store the exchange; absent: if it has a conversation or a scope, as configured.",
    ),
)
CHAT: tuple[Param, ...] = (
    Param("messages", "messages", "The conversation so far.", REQUIRED),
    Param("tools", "tools", "Functions that the model may call."),
    TOOL_CHOICE,
    Param("template_kwargs", "map", "Extra variables for the chat template."),
    SPECIAL_TOKENS_IN_TEXT,
    *CONVERSATION,
    Param(
        "history",
        "string",
        "`stored`: what the conversation has comes before `messages`; `given`: they are all of it.",
        "stored",
        choices=("stored", "given"),
    ),
)
GENERATE: tuple[Param, ...] = (
    Param("prompt", "text or token ids", "Continued as it is.", REQUIRED),
    *CONVERSATION,
)
FILL: tuple[Param, ...] = (
    Param("prefix", "string", "Text before the gap.", REQUIRED),
    Param("suffix", "string", "Text after the gap.", ""),
    SPECIAL_TOKENS_IN_TEXT,
)


@dataclass(frozen=True, slots=True)
class Method:
    """One method: what it takes and, in a word, what it answers."""

    name: str
    doc: str
    result: str
    params: tuple[Param, ...] = ()

    def param(self, name: str) -> Param:
        """Return the parameter called `name`; KeyError where there is none."""
        return next(param for param in self.params if param.name == name)


def _optional(params: tuple[Param, ...]) -> tuple[Param, ...]:
    return tuple(
        Param(
            p.name,
            p.kind,
            p.doc,
            None if p.required else p.default,
            p.minimum,
            p.maximum,
            p.choices,
        )
        for p in params
    )


_MODEL_REQUIRED = Param("model", "string", "Name, alias, Hugging Face id or folder.", REQUIRED)

_ALL = (
    Method(
        "hello",
        "Introduce the client; learn versions, capabilities and limits.",
        "{server, version, protocol, capabilities, limits}",
        (
            Param("client", "string", "Name of the client."),
            Param("version", "string", "Version of the client."),
            Param("protocol", "integer", "Highest protocol number that the client speaks."),
        ),
    ),
    Method("ping", "Answer at once.", "{pong: true}"),
    Method(
        "chat",
        "Answer a conversation, with the model's chat template.",
        "completion",
        (MODEL, *CHAT, *SAMPLING, *DELIVERY),
    ),
    Method(
        "generate",
        "Continue text, without a template.",
        "completion",
        (MODEL, *GENERATE, *SAMPLING, *DELIVERY),
    ),
    Method(
        "fill",
        "Write what belongs between prefix and suffix.",
        "completion",
        (MODEL, *FILL, *SAMPLING, *DELIVERY),
    ),
    Method(
        "prefill",
        "Compute and keep the prompt's KV; emit no token.",
        "{usage, timing, applied}",
        (
            MODEL,
            *_optional(CHAT),
            *_optional(GENERATE[:1]),
            *_optional(FILL[:2]),
            *SAMPLING,
            *DELIVERY,
        ),
    ),
    Method(
        "cancel",
        "Stop a request of this connection.",
        "{cancelled}",
        (
            Param("id", "message id", "The request's msgid."),
            Param("tag", "message id", "The request's tag."),
        ),
    ),
    Method(
        "tokenize",
        "Count and list tokens of text, or of messages under the template.",
        "{tokens, count}",
        (
            MODEL,
            Param("text", "string", "Plain text."),
            Param("messages", "messages", "A conversation, under the chat template."),
            Param("tools", "tools", "Functions offered in the template."),
            TOOL_CHOICE,
            Param("template_kwargs", "map", "Extra variables for the chat template."),
            Param("thinking", "boolean", "As in chat."),
            SPECIAL_TOKENS_IN_TEXT,
        ),
    ),
    Method(
        "detokenize",
        "Turn token ids into text.",
        "{text}",
        (MODEL, Param("tokens", "token ids", "Token ids.", REQUIRED)),
    ),
    Method(
        "load",
        "Load a model and keep it warm.",
        "{model, bytes, load_s, was_loaded, pinned, keep_alive_s}",
        (
            MODEL,
            Param(
                "keep_alive_s",
                "number",
                "Seconds after its last use; -1: forever.",
                None,
                -1,
                2**31,
            ),
            Param("pin", "boolean", "Never evict it; false: unpin it; absent: as it is."),
            Param("adapter", "string", "LoRA adapter to load with it."),
            Param("draft", "string", "Smaller model to load for speculative decoding."),
            Param("trust_remote_code", "boolean", "Only where the configuration allows it.", False),
        ),
    ),
    Method(
        "unload",
        "Free a model's memory.",
        "{unloaded, pending_requests, models}",
        (MODEL, Param("all", "boolean", "Every model.", False)),
    ),
    Method(
        "ps",
        "What is resident.",
        "{models: [{model, bytes, idle_s, keep_alive_s, pinned, requests}], "
        "evicted: [{model, bytes, reason, at}]}",
    ),
    Method("models.list", "Models on this machine.", "{models: [record]}"),
    Method("models.show", "Everything known about one model.", "record", (MODEL,)),
    Method(
        "models.pull",
        "Download a model; progress comes as events.",
        "record",
        (
            _MODEL_REQUIRED,
            Param("revision", "string", "Branch, tag or commit."),
            Param("environment", "map", "HF_ENDPOINT, HF_TOKEN, HF_HUB_* and proxies to use."),
            Param("stream", "boolean", "Send progress events.", False),
            Param("tag", "message id", "Put into events as `id`, and accepted by cancel."),
        ),
    ),
    Method(
        "models.convert",
        "Convert or quantise a model; progress comes as events.",
        "record, and {source_bytes}",
        (
            _MODEL_REQUIRED,
            Param("output", "string", "Folder to write; absent: one that is found by name."),
            Param("bits", "integer", "Bits per weight; absent: not quantised.", None, 2, 8),
            Param("group_size", "integer", "Weights that share a scale.", None, 16, 128),
            Param(
                "mode",
                "string",
                "Quantisation mode of MLX.",
                None,
                choices=("affine", "mxfp4", "mxfp8", "nvfp4"),
            ),
            Param(
                "dtype",
                "string",
                "Type of the other weights.",
                None,
                choices=("float16", "bfloat16", "float32"),
            ),
            Param("stream", "boolean", "Send progress events.", False),
            Param("tag", "message id", "Put into events as `id`, and accepted by cancel."),
        ),
    ),
    Method(
        "models.remove",
        "Delete a model from the local cache.",
        "{removed, bytes}",
        (_MODEL_REQUIRED,),
    ),
    Method(
        "models.default",
        "Set or show the model that answers requests which name none.",
        "{default, in_effect}",
        (Param("model", "string", "Name, alias, Hugging Face id or folder; absent: show."),),
    ),
    Method(
        "models.alias",
        "Give a model another name, or take that name away.",
        "{alias, model}",
        (
            Param("alias", "string", "The other name.", REQUIRED),
            Param("model", "string", "What it means; absent: nothing any more."),
        ),
    ),
    Method(
        "conversations.list",
        "Stored conversations, newest first.",
        "{conversations: [record]}",
        (
            Param("limit", "integer", "The most records.", 20, 1, 10_000),
            Param("scope", "string", "Only those of a terminal or folder."),
        ),
    ),
    Method(
        "conversations.show",
        "One conversation with its messages.",
        "record",
        (Param("id", "string", "Conversation id.", REQUIRED),),
    ),
    Method(
        "conversations.search",
        "Full-text search.",
        "{conversations: [record]}",
        (
            Param("query", "string", "Words to find.", REQUIRED),
            Param("limit", "integer", "The most records.", 20, 1, 10_000),
        ),
    ),
    Method(
        "conversations.truncate",
        "Forget the last turns of a conversation.",
        "{removed}",
        (
            Param("id", "string", "Conversation id.", REQUIRED),
            Param("turns", "integer", "How many.", 1, 1, 10_000),
        ),
    ),
    Method(
        "conversations.remove",
        "Delete conversations.",
        "{removed}",
        (
            Param("id", "string", "Conversation id."),
            Param("all", "boolean", "Every conversation.", False),
        ),
    ),
    Method("status", "The state of the daemon.", "record"),
    Method("metrics", "Counters and histograms in Prometheus text format.", "{text}"),
    Method(
        "shutdown",
        "Finish running requests, then exit.",
        "{stopping: true}",
        (
            Param("drain_s", "number", "Seconds that running requests may take.", None, 0, 86_400),
            Param("resume", "boolean", "The next daemon loads what is in memory now.", False),
        ),
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
assert len(METHODS) == len(_ALL), "a method name occurs twice"

COMPLETION_METHODS = frozenset({"chat", "generate", "fill", "prefill"})


def validate(method_name: str, params: Params) -> Params:
    """Return the parameters in their normal form, with defaults filled in.

    Raises:
        MethodNotFound: there is no such method.
        InvalidParams: a parameter is unknown, missing, or not what it must be.
    """
    method = METHODS.get(method_name)
    if method is None:
        near = difflib.get_close_matches(method_name, METHODS, n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise MethodNotFound(f"There is no method {method_name!r}.", hint=hint)
    known = {param.name for param in method.params}
    for name in params:
        if name not in known:
            raise _unknown_param(method, name)
    checked = {param.name: _value_of(param, params) for param in method.params}
    check_together(method_name, checked)
    return checked


def _unknown_param(method: Method, name: str) -> InvalidParams:
    near = difflib.get_close_matches(name, [param.name for param in method.params], n=1)
    hint = f"Did you mean {near[0]}?" if near else ""
    unnamed = "" if name else "'' "
    return InvalidParams(name, f"{unnamed}is not a parameter of {method.name}", hint=hint)


def _value_of(param: Param, params: Params) -> Any:
    if param.name in params:
        return param.check(params[param.name])
    if param.required:
        raise InvalidParams(param.name, "is required")
    return param.default


def check_together(method_name: str, params: Params) -> None:
    """Raise InvalidParams for combinations that exclude each other."""
    constraints = [key for key in ("schema", "regex", "grammar") if params.get(key) is not None]
    if len(constraints) > 1:
        raise InvalidParams(constraints[1], f"cannot be combined with {constraints[0]}")
    _check_tool_choice(params, constraints)
    if method_name == "prefill":
        _exactly_one(params, ("messages", "prompt", "prefix"))
    elif method_name == "tokenize":
        _exactly_one(params, ("text", "messages"))
    elif method_name == "conversations.remove":
        _exactly_one({**params, "all": params["all"] or None}, ("id", "all"))
    elif method_name == "unload" and params["all"] and params["model"] is not None:
        raise InvalidParams("model", "cannot be combined with all")
    elif method_name == "cancel":
        _exactly_one(params, ("id", "tag"))
    if params.get("seed") == -1:
        params["seed"] = None
    if method_name in COMPLETION_METHODS and params["priority"] is None:
        params["priority"] = "completion" if method_name == "fill" else "interactive"


def _check_tool_choice(params: Params, constraints: list[str]) -> None:
    choice = params.get("tool_choice") or "auto"
    if choice in ("auto", "none"):
        return
    names = [str(function_of(tool)["name"]) for tool in params.get("tools") or []]
    if not names:
        raise InvalidParams("tool_choice", f"{choice} needs tools", hint="Give tools, too.")
    if choice != "required" and choice not in names:
        raise InvalidParams(
            "tool_choice", f"{choice} is none of the tools", hint=f"Tools: {', '.join(names)}"
        )
    if constraints:
        raise InvalidParams("tool_choice", f"{choice} cannot be combined with {constraints[0]}")


def _exactly_one(params: Params, names: tuple[str, ...]) -> None:
    given = [name for name in names if params.get(name) is not None]
    if len(given) != 1:
        raise InvalidParams(
            given[1] if given else names[0], f"give exactly one of {', '.join(names)}"
        )
