"""`mlx ask|generate|fill`, the ordinary case: parse, send, print. Everything else goes to click.

Runs under `python -I -S`: only built-in modules, `_socket`, and the two files beside this one.
"""

import _socket
import posix
import sys

from mlx_fast_text import (
    UNKNOWN_TO_THEM,
    VERSION,
    Aside,
    coloured,
    cut,
    introduce,
    put,
    scope,
    skew,
    socket_path,
    statistics,
    tell,
    visible,
)
from mlx_options import EXIT_CODES, parse, refusal, request_params
from mlx_wire import More, pack, unpack

COMMANDS = {"ask": "chat", "generate": "generate", "fill": "fill"}
FIRST_WORD_S = 15.0
"""A daemon says at once that a request is queued; launchd holds a crashed one back for 10 s."""
READ_BYTES = 65536
PLAIN_CHARACTERS = 60
"""A short line is printed as it is; longer ones are broken between words by the renderer."""
MARKUP = frozenset("*_`#|>[~\n")


def main(arguments):
    """Serve one command line; never returns."""
    command = arguments[0] if arguments else ""
    parsed = parse(arguments[1:], command == "fill") if command in COMMANDS else None
    if parsed is None:
        full(arguments)
    values, words = parsed
    params = None
    text = read_prompt(words) if command != "fill" else ""
    if text is not None and (command != "fill" or ("prefix" in values and not words)):
        params = request_params(command, values, text, scope())
    if params is None or (command != "fill" and not text):
        full(arguments)
    if "model" in params:
        params["model"] = absolute(params["model"])
    params["stream"] = True
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(socket_path())
        foreign = is_foreign(connection)
    except OSError:
        full(arguments)
    if foreign:
        full(arguments)  # which says whose it is
    try:
        send(connection, pack([0, 1, COMMANDS[command], [params]]))
        code = receive(connection, command, values)
    except KeyboardInterrupt:
        code = interrupted(connection)
    except BrokenPipeError:
        code = 0
    posix._exit(code)


def is_foreign(connection):
    """Whether another user's program listens; root's may be launchd."""
    if sys.platform == "darwin":
        raw = connection.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED: a struct xucred
    else:
        raw = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    return int.from_bytes(raw[4:8], sys.byteorder) not in (posix.geteuid(), 0)


def full(arguments):
    """Hand the command to the full program; what stdin gave is passed on."""
    if STDIN:
        give_back(STDIN[0])
    posix.execv(sys.executable, [sys.executable, "-I", "-m", "mlxd.client.cli", *arguments])


def give_back(data):
    """Put what was read from stdin into an unnamed file, and that in stdin's place."""
    path = b"/tmp/.mlx-stdin-%d" % posix.getpid()
    descriptor = posix.open(path, posix.O_RDWR | posix.O_CREAT | posix.O_EXCL, 0o600)
    posix.unlink(path)
    while data:
        data = data[posix.write(descriptor, data) :]
    posix.lseek(descriptor, 0, 0)
    posix.dup2(descriptor, 0)


STDIN: list[bytes] = []


def read_prompt(words):
    """Return the words, with stdin behind them; stdin alone where there are none.

    None: stdin is no text, which the full program says.
    """
    text = " ".join(words)
    try:
        if posix.isatty(0):
            return text
        parts = []
        while part := posix.read(0, READ_BYTES):
            parts.append(part)
    except OSError:
        return text
    raw = b"".join(parts)
    STDIN.append(raw)
    try:
        piped = raw.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError:
        return None
    if "\0" in piped:
        return None
    if not piped.strip():
        return text
    return text + "\n\n" + piped if text else piped


def absolute(model):
    """Return a folder's absolute path; anything else as it is."""
    if model[:1] == "/" or ("/" not in model and model[:1] != "."):
        return model
    try:
        posix.stat(model + "/config.json")
    except OSError:
        return model
    return posix.getcwd() + "/" + model


def send(connection, data):
    while data:
        data = data[connection.send(data) :]


def receive(connection, command, values):
    """Print the answer as it comes; returns the exit code."""
    connection.settimeout(FIRST_WORD_S)
    printer = Printer(command, values)
    data = b""
    while True:
        try:
            part = connection.recv(READ_BYTES)
        except TimeoutError:
            return complain("The daemon accepts connections but does not answer.",
                            "See what it does: mlxd status, mlxd logs -n 50", 3)  # fmt: skip
        if not part:
            return printer.broken("The daemon went away before the answer was complete.",
                                  "Ask again. If it happens again: mlxd logs -n 50", 8)  # fmt: skip
        connection.settimeout(None)
        data += part
        at = 0
        try:
            while True:
                message, at = unpack(data, at)
                if message[0] == 1:
                    code = printer.finish(message[2], message[3])
                    if message[2] is not None:
                        explain(connection, message[2]["code"])
                    return code
                if message[1] == "event":
                    printer.event(message[2][0])
        except More:
            data = data[at:]


def explain(connection, code):
    """Say so where the daemon refuses what it may be too old, or too new, to know."""
    if code not in UNKNOWN_TO_THEM:
        return
    connection.settimeout(FIRST_WORD_S)
    data = b""
    try:
        send(connection, pack([0, 2, "hello", [{}]]))
        while part := connection.recv(READ_BYTES):
            data += part
            try:
                advice = skew(unpack(data, 0)[0][3].get("version", VERSION))
            except More:
                continue
            if advice:
                tell(advice + "\n")
            return
    except OSError:
        return


def rendering(shown):
    """Return what renders Markdown; imported late, since it costs a tenth of a second."""
    import site

    site.main()
    from mlxd.client.cli.markdown import MarkdownStream

    return MarkdownStream(shown)


class Printer:
    """The answer on stdout; everything else on stderr."""

    def __init__(self, command, values):
        self.command = command
        self.values = values
        self.terminal = posix.isatty(1)
        self.rendered = None
        self.plain = bool(not self.terminal or values.get("plain") or not coloured())
        self.quiet = values.get("no_stream")
        self.last = ""
        self.aside = Aside(values.get("thinking"))

    def event(self, event):
        if event["type"] != "delta" or event["channel"] != "answer":
            self.aside.event(event)
        elif not self.quiet:
            self.write(event["text"])

    def write(self, text):
        self.aside.settle()
        if self.terminal:
            text = visible(text)
        if self.rendered is not None:
            self.rendered.write(text)
            return
        self.last += text
        if self.plain:
            self.last = self.last[-1:]
        elif len(self.last) > PLAIN_CHARACTERS or not MARKUP.isdisjoint(text):
            self.rendered = rendering(self.last[: len(self.last) - len(text)])
            self.rendered.write(text)
            return
        put(1, text)

    def newline(self):
        self.aside.settle()
        if self.rendered is not None:
            self.rendered.close()
        elif self.last and self.last[-1] != "\n":
            put(1, "\n")

    def broken(self, message, hint, code):
        self.newline()
        return complain(message, hint, code)

    def finish(self, error, result):
        if error is not None:
            return self.broken(*refusal(error, self.command), EXIT_CODES.get(error["code"], 1))
        if self.quiet:
            self.write(result["choices"][0]["text"])
        self.newline()
        for note in result["applied"]["notes"]:
            tell("mlx: " + note + "\n")
        if said := cut(result, "--max-tokens"):
            tell(said + "\n")
        if advice := skew(result["applied"].get("version", VERSION)):
            tell(advice + "\n")
        if self.values.get("verbose"):
            tell(statistics(result) + "\n")
        if result["applied"]["model"] == "pocket":
            introduce()
        return 0


def interrupted(connection):
    """Ctrl-C: tell the daemon, which stops within a step."""
    try:
        send(connection, pack([2, "cancel", [{"id": 1}]]))
    except OSError:
        pass
    tell("\n")
    return 130


def complain(message, hint, code):
    tell("mlx: " + message + "\n     " + hint + "\n")
    return code
