"""The fast path of `mlx ask|generate|fill`: parse, send, print. Other cases go to click.

Runs under `python -I -S`: only built-in modules, `_socket`, the three files beside this
one, and `peercred` of `mlxd.safesocket`.
"""

import _socket
import posix
import sys
from _signal import (
    SIG_BLOCK,
    SIG_UNBLOCK,
    SIGINT,
    default_int_handler,
    getsignal,
    pthread_sigmask,
    signal,
)

from options import EXIT_CODES, parse, refusal, request_params
from peercred import is_trusted_listener, peer_uid
from text import (
    FOLDERS,
    INPUT_MAX_BYTES,
    UNKNOWN_TO_THEM,
    VERSION,
    StatusPrinter,
    absolute,
    coloured,
    introduce,
    put,
    remarks,
    say,
    scope,
    skew,
    socket_path,
    tell,
    verdict,
    visible,
)
from wire import More, pack, unpack

COMMANDS = {"ask": "chat", "generate": "generate", "fill": "fill"}
FIRST_WORD_S = 15.0
"""The daemon reports at once that a request is queued. launchd delays a crashed daemon by 10 s."""
READ_BYTES = 65536
PLAIN_CHARACTERS = 60
"""A short line is printed as is. The renderer wraps longer ones between words."""
MARKUP = frozenset("*_`#|>[~\n")


def main(arguments):
    """Run one command line and exit. SIGINT is blocked on entry, until its handler is set."""
    if getsignal(SIGINT) is default_int_handler:  # the parent may ignore SIGINT
        signal(SIGINT, interrupt)
    pthread_sigmask(SIG_UNBLOCK, [SIGINT])
    command = arguments[0] if arguments else ""
    parsed = parse(arguments[1:], command == "fill") if command in COMMANDS else None
    if parsed is None:
        full(arguments)
    values, words = parsed
    params = None
    text = "" if command == "fill" else read_prompt(words)
    if text is not None and (command != "fill" or ("prefix" in values and not words)):
        params = request_params(command, values, text, scope())
    if params is None or (command != "fill" and not text):
        full(arguments)
    for name in FOLDERS:
        if name in params:
            params[name] = absolute(params[name], FOLDERS[name])
    params["stream"] = True
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(socket_path())
        handed_over = connection.fileno() < 3 or not is_trusted_listener(peer_uid(connection))
        if not handed_over:
            send(connection, pack([0, 1, COMMANDS[command], [params]]))
            ASKED.append(connection)
    except OSError:
        handed_over = True  # there is no daemon, or it refused the request before it was complete
    if handed_over:
        # The full program reports the reason: a foreign socket, a large request, a closed stdin.
        connection.close()
        full(arguments)
    try:
        code = receive(connection, command, values)
    except OSError as problem:
        code = unwritable(problem)
    except (IndexError, KeyError, TypeError, ValueError):
        code = complain("The daemon's answer cannot be read.", "Check the daemon: mlxd status", 1)
    posix._exit(code)


def unwritable(problem):
    """Report that stdout cannot be written. A closed pipe is not an error."""
    if isinstance(problem, BrokenPipeError):
        return 0
    return complain("Cannot write to stdout: " + str(problem.strerror) + ".",
                    "Free some space, or write to another place.", 1)  # fmt: skip


def full(arguments):
    """Run the full program with the same arguments and stdin."""
    if STDIN:
        try:
            give_back(STDIN[0])
        except OSError as problem:
            posix._exit(complain("Cannot keep the input: " + str(problem.strerror) + ".",
                                 "Set TMPDIR to a folder with free space.", 1))  # fmt: skip
    # The full program unblocks SIGINT after its imports. A Ctrl-C before that stays pending.
    pthread_sigmask(SIG_BLOCK, [SIGINT])
    posix.execv(sys.executable, [sys.executable, "-I", "-m", "mlxd.client.cli", *arguments])


def give_back(data):
    """Write `data`, which was read from stdin, to an unnamed file and make that file stdin."""
    name = b"/.mlx-stdin-" + posix.urandom(8).hex().encode()
    flags = posix.O_RDWR | posix.O_CREAT | posix.O_EXCL
    try:
        path = (posix.environ.get(b"TMPDIR") or b"/tmp") + name
        descriptor = posix.open(path, flags, 0o600)
    except OSError:
        path = b"/tmp" + name  # TMPDIR is missing or full
        descriptor = posix.open(path, flags, 0o600)
    posix.unlink(path)
    while data:
        data = data[posix.write(descriptor, data) :]
    posix.lseek(descriptor, 0, 0)
    posix.dup2(descriptor, 0)


STDIN: list[bytes] = []


def read_prompt(words):
    """Return the prompt: the words followed by stdin.

    The word `-` reads stdin even if it is a terminal. Returns None if stdin cannot be read or is
    not UTF-8 text. The full program reports the reason.
    """
    wanted = "-" in words
    text = " ".join([word for word in words if word != "-"] if wanted else words)
    parts = []
    room = INPUT_MAX_BYTES
    try:
        if posix.isatty(0) and not wanted:
            return text
        while part := posix.read(0, READ_BYTES):
            parts.append(part)
            room -= len(part)
            if room < 0:
                break
    except OSError:
        return None
    if room < 0:
        posix._exit(complain("stdin has more than %d MB." % (INPUT_MAX_BYTES // 1000000),
                             "Send less input.", 6))  # fmt: skip
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


def send(connection, data):
    while data:
        data = data[connection.send(data) :]


def receive(connection, command, values):
    """Print the answer as it arrives. Return the exit code."""
    connection.settimeout(FIRST_WORD_S)
    printer = Printer(command, values)
    data = b""
    while True:
        try:
            part = connection.recv(READ_BYTES)
        except TimeoutError:
            return complain("The daemon accepts connections but does not answer.",
                            "Check it: mlxd status, mlxd logs -n 50", 3)  # fmt: skip
        except OSError:
            part = b""
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
    """Compare versions with the daemon if a version difference may have caused the error."""
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
                say(advice + "\n")
            return
    except OSError:
        return


def rendering(shown):
    """Return a Markdown renderer. Its import takes a tenth of a second, so it is done on demand."""
    import site

    site.main()
    from mlxd.client.cli.markdown import MarkdownStream

    return MarkdownStream(shown)


class Printer:
    """Prints the answer to stdout and everything else to stderr."""

    def __init__(self, command, values):
        self.command = command
        self.values = values
        self.terminal = posix.isatty(1)
        self.rendered = None
        self.plain = bool(not self.terminal or values.get("plain") or not coloured())
        self.quiet = values.get("no_stream")
        self.last = ""
        self.status = StatusPrinter(values.get("thinking"), values.get("quiet"))

    def event(self, event):
        if event["type"] != "delta" or event["channel"] != "answer":
            self.status.event(event)
        elif not self.quiet:
            self.write(event["text"])

    def write(self, text):
        self.status.settle()
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
        self.status.settle()
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
        for line in remarks(result, self.values, "--max-tokens"):
            say(line + "\n")
        if result["applied"]["model"] == "pocket" and not self.values.get("quiet"):
            introduce()
        return verdict(result)


ASKED: list[_socket.socket] = []
"""The connection, after a complete request was sent on it."""


def interrupt(number, frame):
    """Handle Ctrl-C: cancel the request in the daemon, and exit.

    Raises no exception, so that no interrupted code prints a traceback.
    """
    if ASKED:
        try:
            send(ASKED.pop(), pack([2, "cancel", [{"id": 1}]]))
        except OSError:
            pass
    tell("\n")
    posix._exit(130)


def complain(message, hint, code):
    say("mlx: " + message + "\n     " + hint + "\n")
    return code
