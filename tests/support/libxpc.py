"""Builds a library to preload with launchd's C function `launch_activate_socket`."""

from __future__ import annotations

from pathlib import Path

from support import needs

SOURCE = """
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

/* Returns FAKE_XPC_FD; only once if FAKE_XPC_ONCE names a file. */
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
    """Compile the library. Skips the test if there is no compiler."""
    return needs.preloaded(SOURCE, folder / "libxpc.so")
