"""Runs the same code in many processes at the same moment.

They are forks of one process that has done the imports, so they start closer together and without
fifty starts of Python.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping

FORK = """
import json, os, sys
{prepare}
go, gate = os.pipe()
racers = []
for _ in range({count}):
    said, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        os.dup2(end, 2)
        os.read(go, 1)  # returns in all racers at once
        try:
            {act}
            code = 0
        except SystemExit as exc:
            code = exc.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 1
        sys.stderr.flush()
        os._exit(code)
    os.close(end)
    racers.append((pid, said))
os.close(go)
os.close(gate)
outcomes = []
for pid, said in racers:
    with open(said) as stream:
        text = stream.read()
    outcomes.append((os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text))
print(json.dumps(outcomes))
"""


def race(
    prepare: str, act: str, environ: Mapping[str, str], *arguments: str, count: int = 50
) -> list[tuple[int, str]]:
    """Run the code `act` in `count` processes at once. Return exit status and stderr of each.

    `prepare` is the code with the imports. Both see `arguments` in `sys.argv[1:]`.
    """
    done = subprocess.run(
        [sys.executable, "-c", FORK.format(prepare=prepare, act=act, count=count), *arguments],
        env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
        timeout=110,
    )  # fmt: skip
    return [(code, said) for code, said in json.loads(done.stdout)]
