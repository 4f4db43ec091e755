"""A library with launchd's `launch_activate_socket`, by its C signature, to be preloaded."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Hands FAKE_XPC_FD over, once where FAKE_XPC_ONCE names a file to remember it by. */
int launch_activate_socket(const char *name, int **fds, size_t *count) {
    const char *fd = getenv("FAKE_XPC_FD"), *once = getenv("FAKE_XPC_ONCE");
    if (strcmp(name, "Listener")) return 2;
    if (!fd) return 37;
    if (once && open(once, O_CREAT | O_EXCL, 0600) < 0) return 37;
    *fds = malloc(sizeof(int));
    (*fds)[0] = atoi(fd);
    *count = 1;
    return 0;
}
"""


def build_libxpc(folder: Path) -> Path:
    """Compile the library; skips the test where that cannot be done."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and LD_PRELOAD")
    (folder / "xpc.c").write_text(SOURCE)
    library = folder / "libxpc.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "xpc.c"], check=True)
    return library
