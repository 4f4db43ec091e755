"""Common problems and their remedies, for `mlxd doctor --all` and docs/troubleshooting.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Symptom:
    """A problem, its remedy in one line, and the steps for the page, in Markdown."""

    name: str
    remedy: str
    steps: tuple[str, ...]


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        "A model does not load",
        "Check its folder (mlx models show NAME), its format (mlx models convert), and whether it "
        "needs --trust-remote-code.",
        (
            "Does the folder exist, and does it contain `config.json`? `mlx models show NAME` "
            "shows what it contains.",
            "Is it an MLX model? Weights must be `model*.safetensors`. Get GGUF and PyTorch models "
            "in MLX format from [mlx-community](https://huggingface.co/mlx-community), or convert "
            "them: `mlx models convert NAME --output FOLDER --bits 4`.",
            "Was the download interrupted? `mlx models pull NAME` resumes it.",
            "Does the model need Python code from its own folder? Read that code first. If you "
            'trust it, set `trust_remote_code = true` in `[models."NAME"]` in `config.toml`, and '
            "use `--trust-remote-code`.",
        ),
    ),
    Symptom(
        "Out of memory",
        "Use a smaller or more quantised model, lower --max-tokens, or free memory: mlx ps, "
        "mlx unload --all",
        (
            "Use a smaller model, or the same model in 4 bits. `mlx models show NAME` shows "
            "whether it fits.",
            "Lower `--max-tokens` or shorten the prompt. Memory use grows with the length of both.",
            "`mlx ps` lists the models in memory, and `mlx unload NAME` frees one. A lower "
            "`keep_alive_s` frees idle models sooner.",
            "Set `memory_budget_bytes` in `config.toml` to leave memory for other programs. Models "
            "that do not fit are then refused before they are loaded.",
        ),
    ),
    Symptom(
        "Answers repeat themselves",
        "Raise --repetition-penalty, for example to 1.1.",
        (
            "Raise `--repetition-penalty` to 1.1 or 1.2. Small models need it more often.",
            "If whole paragraphs repeat, raise `--repetition-context-size` as well.",
        ),
    ),
    Symptom(
        "Answers are incoherent",
        "Lower --temperature, or use --preset precise.",
        (
            "Lower `--temperature`, or use a preset: `--preset precise` (0.0), `code` (0.4), "
            "`chat` (0.7), `creative` (1.0).",
            "Is it a chat model? A base model continues the text instead of answering.",
            "The built-in model, pocket, is a demo model. Expect nonsense on your own text.",
        ),
    ),
    Symptom(
        "Answers are slow",
        "Use a 4-bit model on a Mac, and float32 with BLIS or OpenBLAS on Linux. Keep the model in "
        "memory: mlx load NAME --keep-alive forever",
        (
            "On a Mac, `mlxd doctor --all` should show `Metal` as the backend. Models in 4 bits "
            "are the fastest.",
            "On Linux without a GPU, install a fast BLAS: `sudo apt install libblis4-pthread`, or "
            "`libopenblas0-pthread`. Models in float32 are the fastest there, and models in 4 bits "
            "the slowest.",
            "The first answer after a pause includes loading the model. `mlx load NAME "
            "--keep-alive forever` keeps it in memory.",
            "`mlx ask -v` shows how long each step took.",
        ),
    ),
    Symptom(
        "The daemon does not answer",
        "See why: mlxd status, mlxd logs -n 50. Kill a daemon that hangs: mlxd stop --force",
        (
            "`mlxd status` exits with 3 if no daemon is running. `mlxd start` starts it, or shows "
            "why it does not start.",
            "If the service crashes right after its start, launchd waits ten seconds before it "
            "starts it again. Meanwhile, clients can connect but get no answer. `mlxd logs -n 50` "
            "and `mlxd doctor` show the cause.",
            "`mlxd stop --force` kills a daemon that hangs. Stored conversations are kept.",
        ),
    ),
    Symptom(
        "The service does not see models that the shell sees",
        "Set HF_HOME, HF_ENDPOINT and proxies in the table [environment] of config.toml.",
        (
            "Services do not see the variables of your shell. `mlxd install` copies `HF_HOME`, "
            "`HF_ENDPOINT` and proxies into the `[environment]` table of `config.toml`. To change "
            "them later, edit that table and run `mlxd restart`.",
        ),
    ),
)
