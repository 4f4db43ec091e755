"""Shells with the key bindings of `mlx shell-init`, each on its own terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import needs
from support.terminal import Terminal, terminal

PROMPT = "ready>"
RC = {
    "zsh": (".zshrc", "PS1='ready>'; {before}\neval \"$(mlx shell-init zsh)\"\n"),
    "bash": (".bashrc", "PS1='ready>'; {before}\neval \"$(mlx shell-init bash)\"\n"),
    "fish": (
        ".config/fish/config.fish",
        "function fish_prompt; echo -n 'ready>'; end; function fish_greeting; end\n"
        "{before}\nmlx shell-init fish | source\n",
    ),
}
KEYS = {
    "zsh": ("\x18k", "\x18x", "\x18f"),
    "bash": ("\x18k", "\x18x", "\x18f"),
    "fish": ("\x1bk", "\x1bx", "\x1bj"),
}


@contextmanager
def shell(name: str, environ: dict[str, str], home: Path, before: str = "") -> Iterator[Terminal]:
    program = needs.program(name)
    file, text = RC[name]
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(text.replace("{before}", before))
    # Without this folder, fish parses all manual pages in the background at its first start.
    (home / ".local/share/fish/generated_completions").mkdir(parents=True, exist_ok=True)
    own = {key: value for key, value in environ.items() if not key.startswith("XDG_")}
    with terminal([program, "-i"], {**own, "HOME": str(home)}, columns=100) as screen:
        yield screen
