"""A command that is killed again and again, and given again: how often, where, and that it ended well.

python tests/killed.py KILLS SEED LONGEST -- ARGUMENTS of lasttoken

Every start is a fork of a process that has imported what is slow to import. Prints JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path


def started(arguments: list[str]) -> int:
    """The id of a new process that runs the command."""
    child = os.fork()
    if child:
        return child
    sys.argv = ["lasttoken", *arguments]
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    log = os.open(os.environ["KILLED_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    from lasttoken.cli.main import main

    try:
        main()
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def main() -> None:
    kills, seed, longest = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    arguments, draw = sys.argv[5:], random.Random(seed)
    import peft  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import lasttoken.studies.one  # noqa: F401

    out = Path(
        arguments[arguments.index("--out") + 1] if "--out" in arguments else arguments[arguments.index("-o") + 1]
    )
    done, unfinished, status = 0, 0, -1
    while status < 0:
        child = started(arguments)
        if done == kills:
            status = os.waitpid(child, 0)[1]
            break
        time.sleep(draw.uniform(0.0, longest))
        over, ended = os.waitpid(child, os.WNOHANG)
        if over:  # by itself
            status = ended
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        done += 1
        places = [path for place in out.parent.glob(f"{out.name}*") for path in place.rglob("*")]
        unfinished += any(path.suffix == ".part" for path in places)
    told = {"kills": done, "with unfinished files": unfinished, "code": os.waitstatus_to_exitcode(status)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
