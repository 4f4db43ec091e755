"""The method table: every method with its parameters and their defaults.

The daemon validates requests with it, and the tables in `SPEC.md` are generated from it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from mlxd.protocol.errors import InvalidParams, MethodNotFound
from mlxd.protocol.messages import Params
from mlxd.protocol.parameters import (
    CHAT,
    DELIVERY,
    FILL,
    GENERATE,
    MODEL,
    SAMPLING,
    SPECIAL_TOKENS_IN_TEXT,
    TOOL_CHOICE,
)
from mlxd.protocol.params import REQUIRED, Param, function_of


@dataclass(frozen=True, slots=True)
class Method:
    """One method: its parameters, and the shape of its result."""

    name: str
    doc: str
    result: str
    params: tuple[Param, ...] = ()

    def param(self, name: str) -> Param:
        """Return the parameter called `name`.

        Raises:
            StopIteration: the method has no such parameter.
        """
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
        "Return the daemon's version, capabilities and limits.",
        "{server, version, protocol, capabilities, limits}",
        (
            Param("client", "string", "Name of the client."),
            Param("version", "string", "Version of the client."),
            Param("protocol", "integer", "Highest protocol number that the client supports."),
        ),
    ),
    Method("ping", "Test the connection.", "{pong: true}"),
    Method(
        "chat",
        "Answer a conversation, using the model's chat template.",
        "completion",
        (MODEL, *CHAT, *SAMPLING, *DELIVERY),
    ),
    Method(
        "generate",
        "Continue a text, without a chat template.",
        "completion",
        (MODEL, *GENERATE, *SAMPLING, *DELIVERY),
    ),
    Method(
        "fill",
        "Generate the text between a prefix and a suffix.",
        "completion",
        (MODEL, *FILL, *SAMPLING, *DELIVERY),
    ),
    Method(
        "prefill",
        "Compute and cache the KV cache of a prompt, without generating.",
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
        "Cancel a request of this connection.",
        "{cancelled}",
        (
            Param("id", "message id", "Id of the request."),
            Param("tag", "message id", "Tag of the request."),
        ),
    ),
    Method(
        "tokenize",
        "Tokenize a text, or messages with the chat template.",
        "{tokens, count}",
        (
            MODEL,
            Param("text", "string", "Text to tokenize as it is."),
            Param("messages", "messages", "Conversation to render with the chat template."),
            Param("tools", "tools", "Functions for the chat template."),
            TOOL_CHOICE,
            Param("template_kwargs", "map", "Extra variables for the chat template."),
            Param("thinking", "boolean", "As in `chat`."),
            SPECIAL_TOKENS_IN_TEXT,
        ),
    ),
    Method(
        "detokenize",
        "Convert token ids to text.",
        "{text}",
        (MODEL, Param("tokens", "token ids", "Token ids.", REQUIRED)),
    ),
    Method(
        "load",
        "Load a model into memory.",
        "{model, bytes, load_s, was_loaded, pinned, keep_alive_s}",
        (
            MODEL,
            Param(
                "keep_alive_s",
                "number",
                "Seconds that it stays loaded after its last use. -1: forever.",
                None,
                -1,
                2**31,
            ),
            Param("pin", "boolean", "true: never evict it. false: unpin it. Absent: unchanged."),
            Param("adapter", "string", "LoRA adapter to load with the model."),
            Param("draft", "string", "Draft model to load for speculative decoding."),
            Param("trust_remote_code", "boolean", "Run the model's own code, if allowed.", False),
        ),
    ),
    Method(
        "unload",
        "Unload a model from memory.",
        "{unloaded, pending_requests, models}",
        (MODEL, Param("all", "boolean", "Unload every model.", False)),
    ),
    Method(
        "ps",
        "List the loaded models.",
        "{models: [{model, bytes, idle_s, keep_alive_s, pinned, requests, batches, notes}], "
        "evicted: [{model, bytes, reason, at}]}",
    ),
    Method("models.list", "List the models on this machine.", "{models: [record]}"),
    Method("models.show", "Return the details of a model.", "record", (MODEL,)),
    Method(
        "models.pull",
        "Download a model. Sends progress events.",
        "record",
        (
            _MODEL_REQUIRED,
            Param("revision", "string", "Branch, tag or commit."),
            Param("environment", "map", "HF_ENDPOINT, HF_TOKEN, HF_HUB_* and proxy variables."),
            Param("stream", "boolean", "Send progress events.", False),
            Param("tag", "message id", "Replaces the request id in events; cancel accepts it."),
        ),
    ),
    Method(
        "models.convert",
        "Convert or quantise a model. Sends progress events.",
        "record, and {source_bytes}",
        (
            _MODEL_REQUIRED,
            Param("output", "string", "Folder to write. Absent: mlxd's model folder."),
            Param("bits", "integer", "Bits per weight. Absent: not quantised.", None, 2, 8),
            Param("group_size", "integer", "Number of weights that share a scale.", None, 16, 128),
            Param(
                "mode",
                "string",
                "MLX quantisation mode.",
                None,
                choices=("affine", "mxfp4", "mxfp8", "nvfp4"),
            ),
            Param(
                "dtype",
                "string",
                "Data type of the unquantised weights.",
                None,
                choices=("float16", "bfloat16", "float32"),
            ),
            Param("stream", "boolean", "Send progress events.", False),
            Param("tag", "message id", "Replaces the request id in events; cancel accepts it."),
        ),
    ),
    Method(
        "models.import",
        "Link models of other tools; their files are never changed.",
        "{imported: [{name, path}], known: [{name, path}], skipped: [{name, path, problem}]}",
        (
            Param(
                "path",
                "string",
                "Model folder, or a folder of them; absent: those of LM Studio and oMLX.",
            ),
        ),
    ),
    Method(
        "models.search",
        "Search the Hugging Face hub for MLX models.",
        "{models: [{name, bytes, downloads, gated, fits_in_memory, on_this_machine}], "
        "memory_budget_bytes}",
        (
            Param("query", "string", "Words; absent: popular models that fit, largest first."),
            Param("limit", "integer", "The most models.", 20, 1, 100),
            Param("environment", "map", "HF_ENDPOINT, HF_TOKEN, HF_HUB_* and proxies to use."),
        ),
    ),
    Method(
        "models.remove",
        "Delete a downloaded or converted model, or the link to an imported one.",
        "{removed, bytes}",
        (_MODEL_REQUIRED,),
    ),
    Method(
        "models.default",
        "Set or return the default model.",
        "{default, in_effect}",
        (Param("model", "string", "New default. Absent: return the current one."),),
    ),
    Method(
        "models.alias",
        "Add or remove an alias.",
        "{alias, model}",
        (
            Param("alias", "string", "The alias.", REQUIRED),
            Param("model", "string", "The model. Absent: remove the alias."),
        ),
    ),
    Method(
        "conversations.list",
        "List stored conversations, newest first.",
        "{conversations: [record]}",
        (
            Param("limit", "integer", "Maximum number of conversations.", 20, 1, 10_000),
            Param("offset", "integer", "Conversations to skip.", 0, 0, 2**53),
            Param("scope", "string", "Only conversations with this scope."),
        ),
    ),
    Method(
        "conversations.show",
        "Return a conversation with its turns.",
        "record",
        (Param("id", "string", "Conversation id.", REQUIRED),),
    ),
    Method(
        "conversations.search",
        "Search the text of all conversations.",
        "{conversations: [record]}",
        (
            Param("query", "string", "Words to search for.", REQUIRED),
            Param("limit", "integer", "Maximum number of conversations.", 20, 1, 10_000),
        ),
    ),
    Method(
        "conversations.import",
        "Store conversations from another daemon, all or none. Known ids are skipped.",
        "{imported, skipped}",
        (
            Param(
                "conversations",
                "conversations",
                "Records as `conversations.show` returns them, the oldest first.",
                REQUIRED,
            ),
        ),
    ),
    Method(
        "conversations.truncate",
        "Remove the last turns of a conversation.",
        "{removed}",
        (
            Param("id", "string", "Conversation id.", REQUIRED),
            Param("turns", "integer", "Number of turns to remove.", 1, 1, 10_000),
        ),
    ),
    Method(
        "conversations.remove",
        "Delete one or all conversations.",
        "{removed}",
        (
            Param("id", "string", "Conversation id."),
            Param("all", "boolean", "Delete every conversation.", False),
        ),
    ),
    Method("status", "Return the state of the daemon.", "record"),
    Method("metrics", "Return counters and histograms in Prometheus text format.", "{text}"),
    Method(
        "shutdown",
        "Finish running requests, then stop the daemon.",
        "{stopping: true}",
        (
            Param("drain_s", "number", "Seconds to wait for running requests.", None, 0, 86_400),
            Param("resume", "boolean", "Load the same models in the next daemon.", False),
        ),
    ),
)

METHODS: dict[str, Method] = {method.name: method for method in _ALL}
assert len(METHODS) == len(_ALL), "two methods have the same name"

COMPLETION_METHODS = frozenset({"chat", "generate", "fill", "prefill"})


def validate(method_name: str, params: Params) -> Params:
    """Return the parameters in their normal form, with defaults for those that are absent.

    Raises:
        MethodNotFound: no method has this name.
        InvalidParams: a parameter is unknown, missing or invalid. The message names it.
    """
    method = METHODS.get(method_name)
    if method is None:
        near = difflib.get_close_matches(method_name, METHODS, n=1)
        hint = f"Did you mean {near[0]}? List the methods: mlx rpc hello" if near else ""
        raise MethodNotFound(f"No method is named {method_name!r}.", hint=hint)
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
    """Check combinations of parameters, and set defaults that depend on others, in place.

    Raises:
        InvalidParams: two parameters cannot be combined, or exactly one of several is required.
    """
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
        raise InvalidParams(
            "tool_choice", f"{choice} needs tools", hint="Pass tools, or leave out tool_choice."
        )
    if choice != "required" and choice not in names:
        raise InvalidParams(
            "tool_choice",
            f"{choice} is not one of the tools",
            hint=f"Use one of {', '.join(names)}.",
        )
    if constraints:
        raise InvalidParams("tool_choice", f"{choice} cannot be combined with {constraints[0]}")


def _exactly_one(params: Params, names: tuple[str, ...]) -> None:
    given = [name for name in names if params.get(name) is not None]
    if len(given) != 1:
        raise InvalidParams(
            given[1] if given else names[0], f"pass exactly one of {', '.join(names)}"
        )
