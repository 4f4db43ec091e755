"""Paths and messages that the fast path and the full program share. Built-in modules only."""

import posix
import sys

VERSION = "0.2.0"
"""The version of mlxd. A copy of `mlxd.protocol.version`, which would cost start-up time."""

INPUT_MAX_BYTES = 1 << 28
"""Above any context length. Endless input is refused before memory runs out."""

POCKET_NOTE = "mlx: small built-in model. A real one: mlx models pull NAME; mlx ask -m NAME\n"


def state_dir(platform=sys.platform):
    """Return the state folder, as `mlxd.protocol.paths` does. Raises OSError if it is relative."""
    env = posix.environ
    if chosen := env.get(b"MLXD_STATE_DIR"):
        return absolute_or_refused(chosen)
    home = env.get(b"HOME") or account_home()
    if platform == "darwin":
        return home + b"/Library/Application Support/mlxd"
    base = env.get(b"XDG_STATE_HOME", b"")
    return (base if base[:1] == b"/" else home + b"/.local/state") + b"/mlxd"


def account_home():
    """Return the home directory from the user database."""
    import pwd

    try:
        return pwd.getpwuid(posix.getuid()).pw_dir.encode("utf-8", "surrogateescape")
    except KeyError:
        raise OSError from None  # the full program reports the reason


def absolute_or_refused(path):
    """Return an absolute path. For others, raise OSError: the full program reports the reason."""
    if path[:1] != b"/":
        raise OSError
    return path


def socket_path(platform=sys.platform):
    """Return the daemon's socket, as `mlxd.protocol.paths` does. macOS ignores `XDG_*`."""
    env = posix.environ
    if chosen := env.get(b"MLXD_SOCKET"):
        return absolute_or_refused(chosen)
    runtime = env.get(b"XDG_RUNTIME_DIR", b"")
    if platform != "darwin" and runtime[:1] == b"/":
        return runtime + b"/mlxd/mlxd.sock"
    return state_dir(platform) + b"/mlxd.sock"


def scope():
    """Return the scope of "the last conversation": this terminal, or without one this folder.

    A terminal is identified by its device and its session, because devices are reused.
    """
    try:
        for descriptor in (0, 1, 2):
            if posix.isatty(descriptor):
                return "tty:%d.%d" % (posix.fstat(descriptor).st_rdev, posix.getsid(0))
        return "dir:" + posix.getcwd()
    except OSError:
        return ""


FOLDERS = {"model": "/config.json", "draft": "/config.json", "adapter": ""}
"""Parameters that may name a folder, and the file by which such a folder is recognised."""


def absolute(name, holds=FOLDERS["model"]):
    """Return a folder's absolute path, and any other name unchanged.

    The daemon has another working folder.
    """
    if name[:1] == "/" or ("/" not in name and name[:1] != "."):
        return name
    try:
        if name not in (".", "..") and name[:2] != "./" and name[:3] != "../":
            posix.stat(name + holds)
        return posix.getcwd() + "/" + name
    except (OSError, ValueError):
        return name


def skew(theirs):
    """Return advice if the daemon has another version than this program, otherwise ""."""
    if theirs == VERSION:
        return ""
    if _numbers(theirs) > _numbers(VERSION):
        # A restart from here would replace the newer daemon by an older one.
        return "mlx: the daemon is version %s, this is %s. Upgrade this one when convenient." % (
            theirs,
            VERSION,
        )
    return "mlx: the daemon is version %s, this is %s. When convenient: mlxd restart" % (
        theirs,
        VERSION,
    )


def _numbers(version):
    return [int(part) for part in version.split(".") if part.isdigit()]


UNKNOWN_TO_THEM = ("invalid_params", "method_not_found")
"""Errors that a daemon of another version may cause."""


def statistics(result):
    """Return the statistics that `-v` prints."""
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


def is_cut(result):
    """Return whether an answer was truncated at max_tokens."""
    return any(choice["finish_reason"] == "length" for choice in result["choices"])


def remarks(result, values, raise_limit):
    """Return the lines for stderr after an answer. `raise_limit` names how to raise max_tokens."""
    if values.get("quiet"):
        return []
    lines = ["mlx: " + note for note in result["applied"]["notes"]]
    if is_cut(result):
        lines.append("mlx: Truncated at max_tokens. Raise the limit: " + raise_limit + " N")
    if advice := skew(result["applied"].get("version", VERSION)):
        lines.append(advice)
    if values.get("verbose"):
        lines.append(statistics(result))
    return lines


EXIT_BROKEN = 8


def verdict(result):
    """Return the exit code of an answer. A truncated constrained answer is a failure."""
    return EXIT_BROKEN if is_cut(result) and result["applied"].get("constrained") else 0


STATUS_COLUMNS = 70
"""Maximum width of a status line. A wrapped line could not be erased."""


def coloured():
    """Whether to use colours: NO_COLOR, FORCE_COLOR, CLICOLOR and TERM decide, in this order."""
    env = posix.environ
    if env.get(b"NO_COLOR"):
        return False
    if env.get(b"FORCE_COLOR") or env.get(b"CLICOLOR_FORCE", b"0") != b"0":
        return True
    return env.get(b"CLICOLOR") != b"0" and env.get(b"TERM", b"dumb") != b"dumb"


def reasoning_style(thinking):
    """Return the texts before and after a piece of reasoning on stderr, or None to hide it.

    Reasoning is shown if it looks different from the answer, or if `--think` asks for it.
    """
    if thinking is False or not posix.isatty(2):
        return None
    if coloured():
        return ("\x1b[2m", "\x1b[0m") if thinking or posix.isatty(1) else None
    return ("", "") if thinking else None


def progress(event):
    """Return what a request waits for, or "" if it should start at once."""
    kind = event["type"]
    text = ""
    if kind == "loading":
        text = "loading " + event["model"] + loaded_part(event)
    elif kind == "prefill" and event["done"] < event["total"]:
        text = "reading: %d of %d tokens" % (event["done"], event["total"])
    elif kind == "queued" and event["position"]:
        text = "waiting: %d requests ahead" % event["position"]
    return text[:STATUS_COLUMNS]


BAR_WIDTH = 20


def loaded_part(event):
    """Return a progress bar for a model that is being loaded, or "" before its size is known."""
    total = event.get("total_bytes")
    if not total:
        return ""
    part = min(1.0, event["done_bytes"] / total)
    full = int(part * BAR_WIDTH)
    return " [" + "#" * full + "." * (BAR_WIDTH - full) + "] %d%%" % (100 * part)


class StatusPrinter:
    """Shows on stderr what an answer waits for, and the model's reasoning."""

    def __init__(self, thinking, quiet=False):
        self.style = None if quiet else reasoning_style(thinking)
        self.decorated = posix.isatty(2) and coloured() and not quiet
        self.waiting = False
        self.reasoning = False
        self.blank = ""

    def event(self, event):
        """Show an event other than a part of the answer."""
        if event["type"] == "delta":
            self.think(event["text"])
        elif self.decorated and (text := progress(event)):
            self.waiting = True
            tell("\r\x1b[2m" + text + " …\x1b[0m\x1b[K")

    def think(self, text):
        if self.style is None:
            return
        # Blank lines inside are printed when more text follows. Those around it are dropped.
        text = self.blank + text if self.reasoning else text.lstrip()
        shown = text.rstrip()
        self.blank = text[len(shown) :]
        if not shown:
            return
        if self.waiting:
            self.settle()
        self.reasoning = True
        tell(self.style[0] + visible(shown) + self.style[1])

    def settle(self):
        """Remove the status line and end the reasoning. Call it before printing anything else."""
        if self.waiting:
            tell("\r\x1b[K")
        if self.reasoning:
            tell("\n\n")
        self.waiting = self.reasoning = False
        self.blank = ""


CONTROLS: dict[int, int] = {}


def visible(text):
    """Return text with control characters replaced by visible ones.

    Characters that change the writing direction are replaced too, because they can disguise text.
    """
    if not CONTROLS:
        CONTROLS.update({code: 0x2400 + code for code in range(32) if code not in (9, 10)})
        CONTROLS[127] = 0x2421
        for first, end in ((0x80, 0xA0), (0x202A, 0x202F), (0x2066, 0x206A)):
            CONTROLS.update(dict.fromkeys(range(first, end), 0xFFFD))
    return text.translate(CONTROLS)


def introduce():
    """Print once per user that pocket is a small built-in model."""
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
            say(POCKET_NOTE)
            return


def say(text):
    """Print a message to stderr, wrapped between words on a terminal that is narrower."""
    try:
        columns = posix.get_terminal_size(2).columns
    except OSError:
        columns = 0
    # UTF-8 has at least as many bytes as the text takes columns.
    if columns and max(len(line.encode("utf-8", "replace")) for line in text.split("\n")) > columns:
        text = wrapping()(text, columns)
    tell(text)


def wrapping():
    """Return `folded`. Imported late, since it costs a tenth of a second in the fast path."""
    try:
        from mlxd.protocol.wrapping import folded
    except ImportError:
        import site

        site.main()
        from mlxd.protocol.wrapping import folded
    return folded


def tell(text):
    try:
        put(2, text)
    except OSError:
        pass


def put(descriptor, text):
    data = text.encode("utf-8", "replace")
    while data:
        data = data[posix.write(descriptor, data) :]
