"""The options of ask, generate, fill and chat: one table for the fast path and for click.

Plain tuples, because every import adds to the start-up time: (name, flags, kind, help). The name is
that of the protocol's parameter, if there is one. Kinds: int, float, str, span (a duration: 90,
30m, 1h30m, forever), true, false, each (repeatable). The fast path leaves kinds that end with `*`,
and durations with units, to the full program.
"""

OPTIONS = (
    ("model", ("-m", "--model"), "str", "Model: name, alias, Hugging Face id or folder."),
    ("system", ("-s", "--system"), "str", "System prompt."),
    ("preset", ("--preset",), "str", "precise, code, chat or creative."),
    ("max_tokens", ("--max-tokens",), "int", "Maximum number of tokens."),
    ("temperature", ("--temperature", "--temp"), "float", "Randomness; 0 is greedy."),
    ("top_p", ("--top-p",), "float", "Sample from the likeliest tokens up to this mass."),
    ("top_k", ("--top-k",), "int", "Sample from this many likeliest tokens; 0: all."),
    ("min_p", ("--min-p",), "float", "Drop tokens below this share of the best one."),
    (
        "min_tokens_to_keep",
        ("--min-tokens-to-keep",),
        "int",
        "Minimum number of tokens that min-p keeps.",
    ),
    ("repetition_penalty", ("--repetition-penalty",), "float", "Above 1: repeat less."),
    (
        "repetition_context_size",
        ("--repetition-context-size",),
        "int",
        "Tokens that the penalties look back on.",
    ),
    ("presence_penalty", ("--presence-penalty",), "float", "Penalty for tokens that occurred."),
    ("frequency_penalty", ("--frequency-penalty",), "float", "Penalty for every occurrence."),
    ("xtc_probability", ("--xtc-probability",), "float", "Chance of excluding the top choices."),
    ("xtc_threshold", ("--xtc-threshold",), "float", "Probability from which XTC excludes."),
    ("seed", ("--seed",), "int", "Makes sampling repeatable."),
    ("stop", ("--stop",), "each", "Text that ends the answer; repeatable."),
    ("n", ("-n", "--n"), "int*", "Number of answers."),
    ("logprobs", ("--logprobs",), "int*", "Report log-probabilities, with that many alternatives."),
    ("logit_bias", ("--logit-bias",), "str*", "JSON map of token id to a number added."),
    ("ignore_eos", ("--ignore-eos",), "true", "Continue past the end token."),
    (
        "special_tokens_in_text",
        ("--special-tokens",),
        "true",
        "Read control tokens in the prompt as such, not as text.",
    ),
    ("schema", ("--schema",), "str*", "JSON Schema: a file, JSON, or `name, age int`."),
    ("regex", ("--regex",), "str", "Regular expression that the answer matches."),
    ("grammar", ("--grammar",), "str*", "Lark grammar: a file, or the grammar itself."),
    ("thinking", ("--think",), "true", "Let the model think first."),
    ("thinking", ("--no-think",), "false", "Answer without thinking first."),
    ("adapter", ("--adapter",), "str", "LoRA adapter: folder or configured name."),
    ("draft", ("--draft",), "str", "Smaller model that proposes tokens to this one."),
    ("keep_alive_s", ("--keep-alive",), "span", "How long the model stays warm: 1h30m, forever."),
    ("priority", ("--priority",), "str", "interactive, completion or batch."),
    ("deadline_s", ("--timeout",), "span", "Give up after this time: 90, 5m."),
    ("trust_remote_code", ("--trust-remote-code",), "true", "Only where config.toml allows it."),
    ("continue", ("-c", "--continue"), "true", "Continue this terminal's last conversation."),
    ("conversation", ("--conversation",), "str", "Continue the conversation with this id."),
    ("log", ("--no-log",), "false", "Do not store this exchange."),
    ("template", ("-t", "--template"), "str*", "Put the prompt into a template: its name."),
    ("param", ("-p", "--param"), "each*", "A template's field, as NAME=VALUE."),
    ("edit", ("-e", "--edit"), "true*", "Write the prompt in $EDITOR."),
    ("json", ("--json",), "true*", "Print the result as one JSON object."),
    ("events", ("--stream",), "true*", "With --json: print events as they arrive, one per line."),
    ("plain", ("--plain",), "true", "Do not render Markdown on a terminal."),
    ("no_stream", ("--no-stream",), "true", "Print the answer once it is complete."),
    ("extract", ("-x", "--extract"), "true*", "Print the first code block only."),
    ("verbose", ("-v", "--verbose"), "true", "Statistics on stderr."),
    ("quiet", ("-q", "--quiet"), "true", "Print only the answer, and errors on stderr."),
    ("copy", ("--copy",), "true*", "Put the answer on the clipboard as well."),
    ("file", ("-f", "--file"), "each*", "File to put before the prompt; - for stdin; repeatable."),
)

FILL_OPTIONS = (
    ("prefix", ("--prefix",), "str", "Text before the gap."),
    ("suffix", ("--suffix",), "str", "Text after the gap."),
)

PRESETS = {
    "precise": (0.0, 0.95),
    "code": (0.4, 0.95),
    "chat": (0.7, 0.95),
    "creative": (1.0, 1.0),
}
"""Maps a preset to (temperature, top_p)."""

PRIORITIES = ("interactive", "completion", "batch")
"""The choices of --priority. A test compares them with the protocol's."""

LOCAL = frozenset((
    "system", "preset", "continue", "template", "param", "edit", "json", "events", "plain",
    "no_stream", "extract", "verbose", "quiet", "copy", "file", "prefix", "suffix",
))  # fmt: skip
"""Options that are not parameters of the request."""

EXIT_CODES = {
    "internal": 1,
    "parse_error": 6,
    "invalid_request": 6,
    "method_not_found": 6,
    "invalid_params": 6,
    "model_not_found": 4,
    "model_load_failed": 5,
    "out_of_memory": 5,
    "context_overflow": 6,
    "constraint_invalid": 6,
    "overloaded": 7,
    "deadline_exceeded": 7,
    "superseded": 7,
    "cancelled": 130,
    "engine_died": 8,
    "shutting_down": 7,
    "permission_denied": 6,
    "hub_unreachable": 7,
}
"""Maps an error code to an exit code. A test compares it with the protocol's table."""


SPEC_HINT = "See the protocol:"
"""Hints for programmers begin with this. The command line replaces them with `--help`."""


def refusal(error, command, flags=None):
    """Return (message, hint) of an error map, with flags instead of parameter names.

    `flags` maps a parameter's name to its flag.
    """
    message, hint = error["message"], error["hint"]
    param = (error.get("data") or {}).get("param")
    if param and message.startswith(param + ":"):
        flag = (flags or long_flags()).get(param, param)
        message = flag + message[len(param) :]
    if message[-1:].isalnum() or message[-1:] in ("'", '"', ")"):
        message += "."
    if hint.startswith(SPEC_HINT):
        hint = "See: mlx " + command + " --help"
    return message, hint


def long_flags():
    """Return the long flag of each parameter in the table."""
    found = {}
    for name, flags, _, _ in OPTIONS + FILL_OPTIONS:
        found.setdefault(name, next(flag for flag in flags if flag[:2] == "--"))
    return found


def by_flag(fill):
    """Return a map from flag to (name, kind) for one command."""
    table = {}
    for name, flags, kind, _ in OPTIONS + (FILL_OPTIONS if fill else ()):
        for flag in flags:
            table[flag] = (name, kind)
    return table


def parse(arguments, fill=False):
    """Return (values, words), or None if the full program must parse the arguments."""
    table = by_flag(fill)
    values = {}
    words = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words.extend(rest)
        elif argument[:1] != "-" or argument == "-":
            words.append(argument)
        else:
            flag, equals, value = argument.partition("=")
            if flag not in table or (equals and flag[:2] != "--"):
                return None
            name, kind = table[flag]
            if kind[-1] == "*":
                return None
            if kind in ("true", "false"):
                if equals:
                    return None
                values[name] = kind == "true"
                continue
            if not equals:
                value = next(rest, None)
                if value is None:
                    return None
            try:
                _put(values, name, kind, value)
            except ValueError:
                return None
    return values, words


def _put(values, name, kind, value):
    if kind == "each":
        values.setdefault(name, []).append(value)
    elif kind == "int":
        values[name] = int(value)
        if values[name].bit_length() > INT_BITS:
            raise ValueError
    elif kind == "float":
        values[name] = float(value)
    elif kind == "span":
        values[name] = plain_seconds(value)
    else:
        values[name] = value


INT_BITS = 63
"""MessagePack allows 64 bits for unsigned integers, but no parameter needs them."""


def plain_seconds(text):
    """Return a plain number of seconds. Raises ValueError for other durations, such as 1h30m.

    The full program parses durations with units, in `mlxd.protocol.durations`.
    """
    digits = text.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()) or len(text) > 20:
        raise ValueError
    return float(text)


def request_params(command, values, prompt, scope=""):
    """Return the request's parameters, or None if the full program must build them."""
    params = {name: value for name, value in values.items() if name not in LOCAL}
    if values.get("continue"):
        if "conversation" in params:
            return None
        params["conversation"] = "last"
    if command == "fill":
        if "conversation" in params or "log" in params or "thinking" in params:
            return None
        if "system" in values:
            return None
    elif scope:
        params["scope"] = scope
    if params.get("priority", PRIORITIES[0]) not in PRIORITIES:
        return None
    preset = values.get("preset")
    if preset is not None:
        if preset not in PRESETS:
            return None
        temperature, top_p = PRESETS[preset]
        params.setdefault("temperature", temperature)
        params.setdefault("top_p", top_p)
    system = values.get("system")
    if command == "ask":
        params["messages"] = [{"role": "user", "content": prompt}]
        if system is not None:
            params["messages"].insert(0, {"role": "system", "content": system})
    elif command == "generate":
        params["prompt"] = prompt if system is None else system + "\n\n" + prompt
    else:
        params["prefix"] = values.get("prefix", "")
        params["suffix"] = values.get("suffix", "")
    return params
