"""Help texts with options grouped in sections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from typing import Any

import click

SECTIONS: dict[str, tuple[str, ...]] = {
    "Prompt": ("prefix", "suffix", "system", "file", "template", "param", "edit",
               "special_tokens_in_text"),
    "Conversation": ("continue", "conversation", "log"),
    "Output": ("json", "events", "extract", "plain", "no_stream", "copy", "quiet", "verbose",
               "n", "logprobs"),
    "Model": ("model", "thinking", "adapter", "draft", "keep_alive_s", "trust_remote_code"),
    "Answer format": ("max_tokens", "stop", "schema", "regex", "grammar", "ignore_eos"),
    "Sampling": (
        "preset", "temperature", "top_p", "top_k", "min_p", "min_tokens_to_keep", "seed",
        "repetition_penalty", "repetition_context_size", "presence_penalty", "frequency_penalty",
        "xtc_probability", "xtc_threshold", "logit_bias",
    ),
    "Waiting": ("deadline_s", "priority"),
}  # fmt: skip
"""Maps a heading to names of the option table, in the order of the help."""

Record = tuple[str, str]


class Sectioned(click.Command):
    """A command with the shared options, except those in `without`, which it cannot use."""

    def __init__(self, *args: Any, without: Collection[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for param in self.params:
            if isinstance(param, click.Option) and param.name in without:
                param.hidden = True

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the shared ones section by section."""
        found: defaultdict[str | None, list[Record]] = defaultdict(list)
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                found[param.name].append(record)
        shared = {title: _taken(found, names) for title, names in SECTIONS.items()}
        about = _taken(found, [option.name for option in [self.get_help_option(ctx)] if option])
        own = _taken(found, list(found))
        for title, records in (("Options", own), *shared.items(), ("Help", about)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _taken(found: dict[str | None, list[Record]], names: Iterable[str | None]) -> list[Record]:
    return [record for name in names for record in found.pop(name, ())]
