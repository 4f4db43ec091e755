"""What no check can see: symptoms and remedies, for `mlxd doctor` and docs/troubleshooting.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Symptom:
    """What somebody notices, the remedy in one line, and the steps for the page, in Markdown."""

    name: str
    remedy: str
    steps: tuple[str, ...]


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "A model does not load",
        "Check the path, that it is in MLX format (mlx models convert), and whether it needs "
        "--trust-remote-code.",
        (
            "Does the path exist, and does it hold `config.json`? `mlx models show NAME` says what "
            "is there.",
            "Is it in MLX format? Weights must be `model*.safetensors`. GGUF and PyTorch files are "
            "not; get one from [mlx-community](https://huggingface.co/mlx-community), or convert "
            "it: `mlx models convert NAME --output FOLDER --bits 4`.",
            "Was the download cut off? `mlx models pull NAME` fetches what is missing.",
            "Does the model bring code of its own? Read that code. If you trust it, allow it in "
            '`config.toml` (`[models."NAME"]`, `trust_remote_code = true`), and ask with '
            "`--trust-remote-code`.",
        ),
    ),
    Symptom(
        "Memory runs out",
        "Take a smaller or more quantised model, lower --max-tokens, or free others: mlx ps, "
        "mlx unload.",
        (
            "Take a smaller model, or the same one in 4 bits. `mlx models show NAME` says whether "
            "it fits.",
            "Lower `--max-tokens`, and shorten the prompt: what a prompt needs grows with its "
            "length.",
            "`mlx ps` shows what is resident; `mlx unload NAME` frees it. A lower `keep_alive_s` "
            "does so by itself.",
            "`memory_budget_bytes` in `config.toml` keeps room for other programs: what does not "
            "fit is refused before it is loaded.",
        ),
    ),
    Symptom(
        "Answers repeat themselves",
        "Raise --repetition-penalty, for instance to 1.1.",
        (
            "Raise `--repetition-penalty` a little, to 1.1 or 1.2. Small models need it more.",
            "If an answer repeats whole paragraphs, raise `--repetition-context-size` as well.",
        ),
    ),
    Symptom(
        "Answers are incoherent",
        "Lower --temperature, or take --preset precise.",
        (
            "Lower `--temperature`, or take a preset: `--preset precise` (0.0), `code` (0.4), "
            "`chat` (0.7), `creative` (1.0).",
            "Is the model meant for chat? A base model continues text instead of answering.",
            "The built-in model, pocket, only shows that everything works; it knows nothing.",
        ),
    ),
    Symptom(
        "Answers come slowly",
        "A model in 4 bits on a Mac, float32 and BLIS or OpenBLAS on Linux; keep it warm: "
        "mlx load NAME --keep-alive forever",
        (
            "On a Mac: is it `Metal` that `mlxd doctor` names as the backend? A model in 4 bits is "
            "the fast one.",
            "On Linux without a GPU: install a fast BLAS (`sudo apt install libblis4-pthread`, or "
            "`libopenblas0-pthread`), which makes it many times faster. float32 is the fast type "
            "there, 4 bits the slow one.",
            "The first answer after a pause may load the model: `mlx load NAME --keep-alive "
            "forever` keeps it.",
            "`mlx ask -v` says what took how long.",
        ),
    ),
    Symptom(
        "The daemon does not answer",
        "See why: mlxd status, mlxd logs -n 50. End one that is stuck: mlxd stop --force",
        (
            "`mlxd status` exits with 3 where none runs; `mlxd start` starts one and shows why it "
            "cannot.",
            "A service that crashes at once is held back by launchd for ten seconds: meanwhile "
            "connecting succeeds and nobody answers. `mlxd logs -n 50` and `mlxd doctor` say why "
            "it crashes.",
            "`mlxd stop --force` ends a daemon that is stuck; no conversation is lost by it.",
        ),
    ),
    Symptom(
        "The service sees other models than the shell",
        "Set HF_HOME, HF_ENDPOINT and proxies in the table [environment] of config.toml.",
        (
            "A service sees no shell. `mlxd install` copies `HF_HOME`, `HF_ENDPOINT` and proxies "
            "into the `[environment]` table of `config.toml`; if you change them later, change "
            "them there, then `mlxd restart`.",
        ),
    ),
)
