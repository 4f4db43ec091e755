"""The parameters that methods share: sampling, delivery, conversations and prompts."""

from __future__ import annotations

from mlxd.protocol.params import REQUIRED, Param

DEFAULT_MAX_TOKENS = 512
PRIORITIES = ("interactive", "completion", "batch")

MODEL = Param(
    "model", "string", "Name, alias, Hugging Face id or folder. Absent: the default model."
)

SAMPLING: tuple[Param, ...] = (
    Param(
        "max_tokens",
        "integer",
        "Maximum number of tokens to generate.",
        DEFAULT_MAX_TOKENS,
        1,
        2**20,
    ),
    Param("temperature", "number", "Sampling temperature. 0: greedy.", 0.7, 0, 10),
    Param(
        "top_p",
        "number",
        "Keep the most likely tokens up to this total probability. 1: all.",
        0.95,
        0,
        1,
    ),
    Param(
        "top_k", "integer", "Keep this many of the most likely tokens. 0 or -1: all.", 0, -1, 2**20
    ),
    Param(
        "min_p", "number", "Drop tokens below this fraction of the best one. 0: none.", 0.0, 0, 1
    ),
    Param(
        "min_tokens_to_keep", "integer", "Number of tokens that min_p always keeps.", 1, 1, 2**20
    ),
    Param(
        "repetition_penalty",
        "number",
        "Penalise tokens that already occurred, by this factor. 1: off.",
        1.0,
        0.01,
        10,
    ),
    Param(
        "repetition_context_size",
        "integer",
        "Number of last tokens that the penalties consider.",
        20,
        1,
        2**20,
    ),
    Param(
        "presence_penalty",
        "number",
        "Subtracted once from the logits of tokens that occurred.",
        0.0,
        -10,
        10,
    ),
    Param(
        "frequency_penalty",
        "number",
        "Subtracted from the logit of a token for each occurrence.",
        0.0,
        -10,
        10,
    ),
    Param(
        "xtc_probability",
        "number",
        "Probability of excluding the most likely tokens (XTC).",
        0.0,
        0,
        1,
    ),
    Param(
        "xtc_threshold",
        "number",
        "XTC excludes tokens above this probability, except the least likely.",
        0.1,
        0,
        0.5,
    ),
    Param(
        "logit_bias",
        "logit bias",
        "Maps a token id to a number from -100 to 100 that is added to its logit.",
    ),
    Param(
        "seed",
        "integer",
        "Makes sampling reproducible, alone and in a batch. -1: random.",
        None,
        -1,
        2**63 - 1,
    ),
    Param("stop", "strings", "Text that ends the answer. It is not part of the answer."),
    Param("n", "integer", "Number of answers to the prompt.", 1, 1, 64),
    Param(
        "logprobs",
        "logprobs",
        "Return log-probabilities. A number: with that many alternatives.",
        -1,
        -1,
        20,
    ),
    Param("ignore_eos", "boolean", "Ignore the end token and generate until max_tokens.", False),
    Param("schema", "schema", "JSON Schema that the answer must satisfy."),
    Param("regex", "string", "Regular expression that the answer must match."),
    Param("grammar", "string", "Lark grammar that the answer must follow."),
    Param("thinking", "boolean", "Turn reasoning on or off in the chat template."),
)

DELIVERY: tuple[Param, ...] = (
    Param("stream", "boolean", "Send `event` notifications before the response.", False),
    Param("tag", "message id", "Replaces the request id in events; cancel accepts it."),
    Param("priority", "string", "Scheduling class.", None, choices=PRIORITIES),
    Param(
        "deadline_s",
        "number",
        "Seconds until the request fails with `deadline_exceeded`.",
        None,
        0.001,
        86_400,
    ),
    Param("supersede", "string", "Key. A newer request with the same key cancels this one."),
    Param(
        "keep_alive_s",
        "number",
        "Seconds that the model stays loaded afterwards. -1: forever.",
        None,
        -1,
        2**31,
    ),
    Param("adapter", "string", "LoRA adapter: a folder or a configured name."),
    Param("draft", "string", "Smaller draft model for speculative decoding."),
    Param(
        "trust_remote_code",
        "boolean",
        "Run the model's own code, if the configuration allows it.",
        False,
    ),
)

TOOL_CHOICE = Param(
    "tool_choice",
    "tool choice",
    "`auto`, `none`, `required`, or the name of the tool to call.",
    "auto",
)
SPECIAL_TOKENS_IN_TEXT = Param(
    "special_tokens_in_text",
    "boolean",
    "Treat the text of control tokens in the input as control tokens.",
    False,
)

CONVERSATION: tuple[Param, ...] = (
    Param("conversation", "string", "Stored conversation: an id, `last` (in the scope) or `new`."),
    Param("scope", "string", "Key that groups conversations, such as a terminal or a folder."),
    Param(
        "log",
        "boolean",
        "Store the exchange. Absent: as configured, if it has a conversation or scope.",
    ),
)
CHAT: tuple[Param, ...] = (
    Param("messages", "messages", "Messages of the conversation.", REQUIRED),
    Param("tools", "tools", "Functions that the model may call."),
    TOOL_CHOICE,
    Param("template_kwargs", "map", "Extra variables for the chat template."),
    SPECIAL_TOKENS_IN_TEXT,
    *CONVERSATION,
    Param(
        "history",
        "string",
        "`stored`: put the stored turns before `messages`. `given`: use only `messages`.",
        "stored",
        choices=("stored", "given"),
    ),
)
GENERATE: tuple[Param, ...] = (
    Param("prompt", "text or token ids", "Text or token ids to continue.", REQUIRED),
    *CONVERSATION,
)
FILL: tuple[Param, ...] = (
    Param("prefix", "string", "Text before the gap.", REQUIRED),
    Param("suffix", "string", "Text after the gap.", ""),
    SPECIAL_TOKENS_IN_TEXT,
)
