"""The report's text for each measurement, in order."""

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
    """The contender whose values are divided by the others' values."""


SECTIONS = (
    Section(
        "first_byte", "Exec to first byte on the terminal",
        "Each command is started as a shell starts it, with a terminal as its output. The model is "
        "already loaded for clients of a server. `mlx_lm.generate`, `llm` and the openai package "
        "are measured in separate rounds, because they take seconds.",
        "first_byte.png", "mlx ask",
    ),
    Section(
        "request_sent", "Exec to request sent",
        "A socket that answers at once, so that only the client is measured. For the two empty "
        "Python programs, the time until they exit.",
        reference="mlx ask",
    ),
    Section(
        "busy", "On a busy machine",
        "One stream of 24 tokens alone (*quiet*), and beside as many busy processes as there are "
        "cores (*busy*). One token alone, and one requested right after twenty prompts of 8 MB, "
        "which mlxd refuses. Then the first token of a daemon in a new home directory, without "
        "compiled kernels. *Quiet* means that the suite runs nothing else at the same time. The "
        "table at the end has the load of the machine before each measurement.",
    ),
    Section("ready", "Cold start",
            "The daemon is not running, and the model is in the system's file cache. The rows are "
            "the time until a connection is accepted, and until the first token of a request that "
            "is sent then. The daemon accepts connections before its engine has imported MLX."),
    Section(
        "first_token", "Warm time to the first token",
        "A new, uncached prompt of 16, 256 and 2,000 tokens, with the model loaded.",
        "first_token.png",
    ),
    Section(
        "streams", "Tokens per second",
        "Several concurrent answers to prompts of 16 tokens, from the first request to the last "
        "token. In process, one stream uses `stream_generate` and several use `BatchGenerator`.",
        "streams.png",
    ),
    Section(
        "gaps", "Gaps between tokens under mixed load",
        "Four answers are running when three more requests arrive, with prompts of 256, 1,000 and "
        "256 tokens. The figures are the gaps between tokens of the four.",
        "gaps.png",
    ),
    Section(
        "second_turn", "Second turn of a conversation",
        "Time to first token of a prompt of 2,000 tokens, of the next turn, and of a turn after a "
        "restart of the daemon (with the model loaded again and the prompt cached on disk).",
    ),
    Section(
        "priority", "Interactive requests during batch work",
        "Time to first token of a short request on an idle engine, during the prefill of an "
        "8,000-token prompt of class `batch`, and during sixteen `batch` answers. mlx_lm.server "
        "has no priority classes and gets the same requests.",
    ),
    Section(
        "cancel", "Cancellation",
        "Time from the cancel to the response that ends the request, compared with the duration of "
        "one decoding step or one prefill chunk.",
    ),
    Section(
        "idle", "After a while of idleness",
        "Time to first token of a new prompt of 32 tokens, at once and after 1, 10 and 60 seconds "
        "of idleness. On macOS, weights that nothing requests go cold within about a second.",
    ),
    Section(
        "front", "Cost of the front",
        "A fake engine sends a token for every stream each millisecond. This shows the CPU time, "
        "messages and bytes of the front per token. Then idle connections, each after a `hello`: "
        "the memory of the front, and the duration of a ping.",
        "front.png",
    ),
    Section(
        "memory", "Memory",
        "Resident memory. Shared pages are counted in proportion, if the system provides this. "
        "Unloading the last model ends the engine process, and only the front remains.",
    ),
    Section(
        "growth", "Growth",
        "One request that continues cached conversations of several lengths, and one with several "
        "loaded models.",
        "growth.png",
    ),
)  # fmt: skip
