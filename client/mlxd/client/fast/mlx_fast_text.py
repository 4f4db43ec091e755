"""Places and words that the fast path and the full program share. Built-in modules only."""

import posix
import sys

VERSION = "0.1.0"
"""This client's version; a test holds it against the distribution's."""

POCKET_NOTE = (
    "mlx: This is pocket, the small built-in model: it shows that everything works, and little "
    "else.\n     Use a real one: mlx models pull NAME, then mlx ask -m NAME\n"
)


def state_dir():
    """Return where mlxd keeps its state, as `mlxd.protocol.paths` says."""
    env = posix.environ
    if env.get(b"MLXD_STATE_DIR"):
        return env[b"MLXD_STATE_DIR"]
    home = env.get(b"HOME") or b"/"
    if sys.platform == "darwin":
        return home + b"/Library/Application Support/mlxd"
    base = env.get(b"XDG_STATE_HOME", b"")
    return (base if base.strip() else home + b"/.local/state") + b"/mlxd"


def socket_path():
    """Return the daemon's socket, as `mlxd.protocol.paths` says."""
    env = posix.environ
    chosen = env.get(b"MLXD_SOCKET")
    if chosen:
        return chosen
    if env.get(b"XDG_RUNTIME_DIR"):
        return env[b"XDG_RUNTIME_DIR"] + b"/mlxd/mlxd.sock"
    return state_dir() + b"/mlxd.sock"


def scope():
    """Return what "the last conversation" belongs to: this terminal, or else this folder.

    A terminal is its device and its session, since devices are used again.
    """
    try:
        for descriptor in (0, 1, 2):
            if posix.isatty(descriptor):
                return "tty:%d.%d" % (posix.fstat(descriptor).st_rdev, posix.getsid(0))
        return "dir:" + posix.getcwd()
    except OSError:
        return ""


def skew(result):
    """Return the line of advice where daemon and client are of different versions; "": same."""
    theirs = result["applied"].get("version", VERSION)
    if theirs == VERSION:
        return ""
    return "mlx: the daemon is version %s, this is %s. When it suits you: mlxd restart" % (
        theirs,
        VERSION,
    )


def statistics(result):
    """Return the line that `-v` prints."""
    usage, timing = result["usage"], result["timing"]
    return (
        "%s: %d prompt tokens (%d cached), %d tokens, first after %.0f ms, %.1f tokens/s, seed %d"
        % (
            result["applied"]["model"],
            usage["prompt_tokens"],
            usage["cached_tokens"],
            usage["completion_tokens"],
            1000 * timing["time_to_first_token_s"],
            timing["tokens_per_s"],
            result["applied"]["seed"],
        )
    )


def introduce():
    """Say once per user what the built-in model is."""
    folder = state_dir()
    for _ in range(2):
        try:
            flags = posix.O_CREAT | posix.O_EXCL | posix.O_WRONLY
            posix.close(posix.open(folder + b"/pocket-introduced", flags, 0o600))
        except FileNotFoundError:
            try:
                posix.mkdir(folder, 0o700)
            except OSError:
                return
        except OSError:
            return
        else:
            tell(POCKET_NOTE)
            return


def tell(text):
    try:
        put(2, text)
    except OSError:
        pass


def put(descriptor, text):
    data = text.encode("utf-8", "replace")
    while data:
        data = data[posix.write(descriptor, data) :]
