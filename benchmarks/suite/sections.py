"""What the report says about each measurement, in its order."""

from __future__ import annotations

from dataclasses import dataclass

from suite.tables import REFERENCE


@dataclass(frozen=True, slots=True)
class Section:
    measurement: str
    title: str
    text: str
    plot: str = ""
    reference: str = REFERENCE
    """The contender that the ratios are about."""


SECTIONS = (
    Section(
        "first_byte", "Exec to first byte on the terminal",
        "A command is started as a shell would, its output is a terminal, the model is warm where "
        "there is something that keeps it warm. `mlx_lm.generate`, `llm` and the openai package "
        "are measured in rounds of their own, for they take seconds.",
        "first_byte.png", "mlx ask",
    ),
    Section(
        "request_sent", "Exec to request sent",
        "A socket that answers at once, so that nothing but the client is measured; of the two "
        "empty Pythons, the time to their end.",
        reference="mlx ask",
    ),
    Section(
        "busy", "Beside busy neighbours",
        "One stream of 24 tokens alone (quiet), and beside as many busy processes as there are "
        "cores (busy). One token alone, and requested right after twenty prompts of 8 MB, which "
        "mlxd refuses. The first token of a daemon on a new home, without compiled kernels. "
        "*Quiet* means that the suite itself runs nothing else: the table at the end has the load "
        "that the machine had before.",
    ),
    Section("ready", "From nothing",
            "The daemon is not running, the model is in the system's file cache. First the time "
            "until a connection is accepted, then until the first token of a request that came at "
            "that moment: the daemon accepts before its engine has imported MLX."),
    Section(
        "first_token", "Warm time to the first token",
        "A prompt that was never seen before, of 16, 256 and 2,000 tokens.",
        "first_token.png",
    ),
    Section(
        "streams", "Tokens per second",
        "So many answers at once, of 16 tokens of prompt each; from the first request to the last "
        "token. One stream is `stream_generate` in process, several are `BatchGenerator`.",
        "streams.png",
    ),
    Section(
        "gaps", "Gaps between tokens under mixed load",
        "Four answers run; meanwhile three newcomers bring prompts of 256, 1,000 and 256 tokens. "
        "The gaps between the pieces of the four.",
        "gaps.png",
    ),
    Section(
        "second_turn", "Second turn of a conversation",
        "Time to the first token of a prompt of 2,000 tokens, of the next turn, and of the turn "
        "after a restart of the daemon (the model is loaded again, the prompt is on the disk).",
    ),
    Section(
        "priority", "A person while batch work runs",
        "Time to the first token of a short request: idle, during the prefill of an 8,000-token "
        "prompt of class `batch`, and during sixteen `batch` answers. mlx_lm.server has no "
        "classes; it gets the same requests.",
    ),
    Section(
        "cancel", "Cancel to silence",
        "From the cancel to the response that ends the request, beside what one step or one chunk "
        "takes.",
    ),
    Section(
        "front", "What the front costs",
        "An engine that computes nothing and has a token for every stream each millisecond shows "
        "the front's processor time, messages and bytes per token. Then idle connections, which "
        "have said hello: what the front weighs, and what a ping takes.",
        "front.png",
    ),
    Section(
        "memory", "Memory",
        "Resident bytes, pages shared with other processes in proportion where the system tells "
        "it. Unloading the last model ends the engine's process: what is left is the front.",
    ),
    Section(
        "growth", "Growth",
        "One request after conversations of several lengths whose beginning is kept, and with "
        "several models resident.",
        "growth.png",
    ),
)  # fmt: skip
