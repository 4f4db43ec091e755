"""The Homebrew formula: valid Ruby, made from the constraints file, locked files only."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlxd.protocol.version import VERSION
from support import needs

ROOT = Path(__file__).parents[2]
CONSTRAINTS = (ROOT / "packaging" / "constraints.txt").read_text(encoding="utf-8")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Index:
    """A package index with one archive per version. A test may change the hashes."""

    def __init__(self) -> None:
        self.hashes: dict[tuple[str, str], str] = {}
        self.url = ""
        for block in re.split(r"\n(?=\S)", CONSTRAINTS):
            name, _, rest = block.partition("==")
            self.hashes[name, rest.split()[0]] = HASH.findall(block)[0]

    def listing(self, name: str, version: str) -> bytes:
        url = f"{self.url}/files/{name}-{version}.tar.gz"
        file = {
            "filename": f"{name}-{version}.tar.gz",
            "packagetype": "sdist",
            "url": url,
            "digests": {"sha256": self.hashes[name, version]},
        }
        return json.dumps({"urls": [file]}).encode()


@pytest.fixture
def index() -> Iterator[Index]:
    served = Index()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _, _, name, version, _ = self.path.split("/")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(served.listing(name, version))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield served
    server.shutdown()
    server.server_close()


@pytest.fixture
def sdist(tmp_path: Path, index: Index) -> Path:
    path = tmp_path / "mlxd.tar.gz"
    path.write_bytes(b"a source archive")
    index.hashes["mlxd", VERSION] = hashlib.sha256(path.read_bytes()).hexdigest()
    return path


def formula(index: Index, sdist: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "packaging" / "formula")]
    command += ["--sdist", str(sdist), "--index", index.url]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_formula_is_valid_ruby_and_contains_every_package(
    index: Index, sdist: Path, tmp_path: Path
) -> None:
    done = formula(index, sdist)
    assert done.returncode == 0, done.stderr
    rb = tmp_path / "mlxd.rb"
    rb.write_text(done.stdout)
    subprocess.run([needs.program("ruby"), "-wc", str(rb)], check=True, capture_output=True)
    resources = re.findall(r'resource "(.+)" do', done.stdout)
    assert {"mlx", "mlx-metal", "mlx-lm", "click", "numpy"} <= set(resources)
    assert len(resources) == len(set(resources))
    assert not {"mlx-cpu", "hatchling"} & set(resources)


def test_a_file_whose_hash_is_not_locked_is_refused(index: Index, sdist: Path) -> None:
    (click,) = [key for key in index.hashes if key[0] == "click"]
    index.hashes[click] = "0" * 64
    done = formula(index, sdist)
    assert done.returncode == 1
    assert "No locked file of click" in done.stderr
