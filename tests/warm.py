"""A process that has imported what is slow to import, and forks for every command that the pages show.

A fork has its own memory, working directory and streams, as a process started afresh has; what it does not have to do
is importing torch and transformers once more, which takes longer than most of the examples. `lasttoken` on the path of
a page's shell is a small script that hands its arguments and its three streams to that process (`ask`).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPT = """#!{python} -SE
import sys
sys.path.insert(0, {here!r})
from warm import ask
sys.exit(ask({address!r}, [{name!r}, *sys.argv[1:]], (0, 1, 2)))
"""
NAMES = ("lasttoken", "run-python")  # the second runs its argument, as `python -c` does


@contextmanager
def running(folder: Path) -> Iterator[Path]:
    """A folder for the PATH with NAMES in it, which work while the context lasts."""
    address, programs = str(folder / "socket"), folder / "bin"
    programs.mkdir()
    for name in NAMES:
        words = SCRIPT.format(python=sys.executable, here=str(Path(__file__).parent), address=address, name=name)
        (programs / name).write_text(words)
        (programs / name).chmod(0o755)
    with subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield programs
        finally:
            process.kill()


def ask(address: str, command: Sequence[str], streams: Sequence[int]) -> int:
    """The exit status of `command` (a name of NAMES and its arguments), run here and now with stdin, stdout and stderr."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        message = json.dumps(
            {"command": list(command), "folder": os.getcwd(), "environment": dict(os.environ)}
        ).encode()
        socket.send_fds(connection, [len(message).to_bytes(4, "big")], list(streams))
        connection.sendall(message)
        answers = connection.makefile("r")
        process = int(answers.readline() or -1)
        if process > 0:  # what ends this process is meant for that one
            signal.signal(signal.SIGTERM, lambda number, _: os.kill(process, number))
        return int(answers.readline() or 1)


def serve(address: str) -> None:
    """Import all that the commands need, then answer until killed."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read at import; `main` sets it too late here
    import bitsandbytes
    import captum.attr
    import datasets
    import peft
    import scipy.stats
    import sklearn.linear_model
    import transformers

    import lasttoken
    import lasttoken.catalog
    import lasttoken.cli.main

    _ = bitsandbytes, captum, datasets, peft, scipy, sklearn, transformers, lasttoken
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    answer(connection)


def answer(connection: socket.socket) -> None:
    """Become the process that was asked for, and end with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, _, _ = socket.recv_fds(connection, 4, 3)
    message, wanted = b"", int.from_bytes(size, "big")
    while len(message) < wanted:
        message += connection.recv(wanted - len(message))
    asked = json.loads(message)
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    # what the process had open may have been files where these are pipes, which cannot be sought
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(place, "w", 1, closefd=False) for place in (1, 2))
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    connection.sendall(f"{os.getpid()}\n".encode())
    code = run(asked["command"])
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def run(command: Sequence[str]) -> int:
    """The exit status of a command, as the interpreter would give it."""
    name, *arguments = command
    sys.argv = ["-c"] if name == "run-python" else list(command)
    try:
        if name == "run-python":
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            from lasttoken.cli.main import main

            main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1])
