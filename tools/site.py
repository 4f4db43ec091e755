"""Builds the documentation site into `build/site`.

python tools/site.py           assembles the pages and builds them, warnings are errors
python tools/site.py --serve   builds, and serves the site for reading

Each page is stored beside its subject: most in `docs/`, the protocol and the client pages beside
their code. The tool copies them to `build/pages` and rewrites the links between them. Links to
other files point to the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "pages"
ELSEWHERE = {
    "protocol/SPEC.md": "protocol.md",
    "client/js/README.md": "javascript-api.md",
    "client/shell/README.md": "shells.md",
    "client/editors/nvim/README.md": "neovim.md",
    "client/editors/vscode/README.md": "vscode.md",
    "client/editors/emacs/README.md": "emacs.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Pages outside `docs/`, with their names on the site."""
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?(?P<after>\))")


def sources() -> dict[Path, Path]:
    """Return every page with its path below `build/pages`."""
    docs = ROOT / "docs"
    found = {page: page.relative_to(docs) for page in sorted(docs.rglob("*.md"))}
    found |= {ROOT / source: Path(target) for source, target in ELSEWHERE.items()}
    return found


def rewritten(text: str, source: Path, places: dict[Path, Path], repository: str) -> str:
    """Return the text of a page with links that work on the site."""

    def link(found: re.Match[str]) -> str:
        target = found["target"]
        if "://" in target or target.startswith("mailto:"):
            return found[0]
        path = (source.parent / target).resolve()
        anchor = found["anchor"] or ""
        if path.is_dir() and (path / "README.md") in places:
            path = path / "README.md"
        if path in places:
            here = places[source].parent
            return f"]({os.path.relpath(places[path], here)}{anchor})"
        if ROOT / "docs" in path.parents and path.is_file():
            return found[0]  # a picture in the page's folder
        return f"]({repository}/blob/main/{path.relative_to(ROOT)}{anchor})"

    return LINK.sub(link, text)


def assemble() -> None:
    """Write all pages and pictures below `build/pages`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = project["urls"]["Homepage"]
    shutil.rmtree(PAGES, ignore_errors=True)
    places = sources()
    for source, place in places.items():
        target = PAGES / place
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_text(encoding="utf-8")
        target.write_text(rewritten(text, source, places, repository), encoding="utf-8")
    for picture in (ROOT / "docs").rglob("*"):
        if picture.suffix in (".svg", ".png"):
            target = PAGES / picture.relative_to(ROOT / "docs")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)


def main() -> None:
    """Copy the pages and build the site. Return the generator's exit status."""
    assemble()
    tool = str(Path(sys.executable).parent / "zensical")
    serve = "--serve" in sys.argv
    command = [tool, "serve"] if serve else [tool, "build", "--strict", "--clean"]
    sys.exit(subprocess.run(command, cwd=ROOT, check=False).returncode)


if __name__ == "__main__":
    main()
