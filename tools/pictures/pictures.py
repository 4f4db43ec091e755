"""Generates the pictures of the README from real sessions with a real daemon and the built-in
model.

    python tools/pictures/pictures.py [NAME…]

Writes `docs/pictures/NAME.svg`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests"))

from drawing import draw  # noqa: E402
from recording import Scene, play  # noqa: E402

from support.places import mlxd, own_environ  # noqa: E402

PICTURES = ROOT / "docs" / "pictures"
SHELL, CHAT = "$", ">"
SCENES = {
    "ask": Scene(
        title="mlx ask",
        label="A terminal: mlx ask starts the daemon and answers, in pipes too; mlx ps.",
        lines=(
            ('mlx ask "Count from 3 to 7."', SHELL),
            ('mlx ask "shell: find all py files"', SHELL),
            ('mlx ask --temp 0 "Tell me a story about a fox."', SHELL),
            ('mlx ask --schema "name, age int" "Write JSON with name Ada and age 36." | jq', SHELL),
            ("mlx ps", SHELL),
        ),
    ),
    "chat": Scene(
        title="mlx chat",
        label="A terminal: mlx chat remembers a name, follows a system prompt and streams a story.",
        lines=(
            ("mlx chat --temp 0", CHAT),
            ("My name is Ada.", CHAT),
            ("What is my name?", CHAT),
            ("Tell me a story about a robot.", CHAT),
            ("/system Answer in upper case.", CHAT),
            ("Repeat after me: the red fox", CHAT),
            ("/tokens", CHAT),
            ("q", SHELL),
        ),
    ),
}


def environ_in(folder: Path) -> Mapping[str, str]:
    """Return the environment of a new user whose shell finds this installation's commands."""
    commands = str(Path(sys.executable).parent)
    own = own_environ(folder)
    return {**own, "PATH": f"{commands}:{own['PATH']}"}


def picture(scene: Scene) -> str:
    """Play a scene as a new user and return its SVG."""
    with tempfile.TemporaryDirectory(prefix="mlxd-picture-") as folder:
        environ = environ_in(Path(folder))
        try:
            frames = play(scene, environ)
        finally:
            mlxd(environ, "stop")
    return draw(frames, columns=scene.columns, title=scene.title, label=scene.label)


def main() -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or SCENES:
        (PICTURES / f"{name}.svg").write_text(picture(SCENES[name]), encoding="utf-8")


if __name__ == "__main__":
    main()
