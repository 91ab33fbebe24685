"""`lasttoken serve`: finished runs behind HTTP."""

from __future__ import annotations

import json
import os
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from lasttoken.cli import options as o
from lasttoken.errors import ConfigError

TOKEN = "LASTTOKEN_TOKEN"  # environment variable: a token on the command line can be read by every user of a machine


def serve(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders, or exports; NAME=FOLDER gives another name than the folder's")
    ],
    host: Annotated[str, typer.Option("--host", help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one")] = 8000,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Answer everyone who can reach an address that is not this machine's own")
    ] = False,
    explain: Annotated[
        bool | None,
        typer.Option(
            "--explain/--no-explain",
            help="Whether /explain answers, which may take seconds; default: on this machine's own address",
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option("--requests", min=1, help="Requests answered or waiting; more get 429")
    ] = 256,
    texts: Annotated[int, typer.Option("--texts", min=1, help="Texts of a request")] = 256,
    characters: Annotated[int, typer.Option("--characters", min=1, help="Characters of a text")] = 100_000,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.1, help="Seconds until an answer has to be there")
    ] = 60.0,
    drain: Annotated[
        float,
        typer.Option(
            "--drain", min=0, help="Seconds after SIGTERM in which requests are answered while /readyz says 503"
        ),
    ] = 0.0,
    tokens: Annotated[int, typer.Option("--batch-tokens", min=1, help="Tokens of a batch")] = 4096,
    model: o.Base = None,
    trust_remote_code: o.TrustRemoteCode = False,
    merge: Annotated[
        str | None, typer.Option("--merge", help="Merge LoRA into the weights: auto or off; default: the run's")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Precision: auto, float32 or bfloat16; default: the run's")
    ] = None,
    backend: o.Backend = None,
    device: o.Device = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print address and names as JSON once requests are taken")
    ] = False,
) -> None:
    """Answer over HTTP by finished runs, for our own clients and those of TEI and vLLM.

    A token is read from LASTTOKEN_TOKEN.
    """
    folders = folders_by_name(runs)
    token = os.environ.get(TOKEN, "").strip() or None
    if not (token or no_token or is_own(host)):
        raise ConfigError(
            [f"--host {host}: others can reach it; set {TOKEN} to a secret that clients send, or give --no-token"]
        )
    from lasttoken.record.folder import check_run, is_export

    for folder in folders.values():
        check_run(folder)
    check_installed()
    from lasttoken.cli.screen import Screen, say
    from lasttoken.serve.limits import Limits
    from lasttoken.serve.running import Address, listening, run_server

    limits = Limits(requests=requests, texts=texts, characters=characters, timeout=timeout, drain=drain)
    with listening(Address(host, port)) as at:  # bound before torch is imported, and before minutes of loading
        from lasttoken.model.shared import Shared
        from lasttoken.predictor import Predictor
        from lasttoken.serve.metrics import Metrics
        from lasttoken.serve.served import has_adapter, served, sharing

        metrics, ready, groups = Metrics(), [], [] if merge == "auto" else sharing(folders)
        shared, together = Shared() if groups else None, [name for group in groups for name in group]
        with Screen() as screen:  # it would tell of loading for as long as it lasts
            for name, folder in folders.items():
                screen.progress("serve", f"loading {name}", 0, 0)
                beside = name in together
                predictor = Predictor.load(
                    folder,
                    device=device,
                    trust_remote_code=trust_remote_code,
                    model=model,
                    merge="off" if beside and has_adapter(folder) else merge,
                    precision=precision,
                    shared=shared if beside else None,
                    backend=backend if is_export(folder) else None,
                )
                ready.append(served(name, folder, predictor, tokens=tokens, batched=metrics.batched(name)))
        explains = is_own(host) if explain is None else explain
        where = f"http://{f'[{host}]' if ':' in host else host}:{at.getsockname()[1]}"

        def started() -> None:
            if as_json:
                typer.echo(json.dumps({"address": where, "runs": list(folders), "token": bool(token)}))
                sys.stdout.flush()
            asked = "a token is asked for" if token else "no token is asked for"
            say(f"serving {', '.join(folders)} on {where} ({asked}); Ctrl-C ends it")
            header = f'-H "Authorization: Bearer ${TOKEN}" ' * bool(token)
            say(
                f"try: curl {where}/predict {header}-H 'content-type: application/json' -d '{{\"texts\": [\"your text\"]}}'"
            )

        for group in groups:
            say(
                f"{' and '.join(group)} share one base model, their adapters beside it; --merge auto is faster, a model each"
            )
        whole = run_server(ready, at, limits, metrics=metrics, token=token, explains=explains, started=started)
    if not whole:
        say("ended at once, as a second Ctrl-C asked")
        os._exit(130)  # Python would wait for the threads of a prediction
    say("served; nothing was left unanswered")


def folders_by_name(runs: list[str]) -> dict[str, Path]:
    """The folders by name. Raises ConfigError where two have one name."""
    found: dict[str, Path] = {}
    for given in runs:
        name, equals, folder = ("", "", given) if Path(given).is_dir() else given.partition("=")
        place = Path(o.path(folder if equals else given))
        name = name if equals else place.resolve().name
        if name in found:
            raise ConfigError([f"{name}: two runs have this name; give one another: NAME={place}"])
        found[name] = place
    return found


def is_own(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_installed() -> None:
    """Raises ConfigError where the packages of the extra are missing."""
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "httptools", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError([f"serve needs {', '.join(missing)}: pip install 'lasttoken[serve]'"])
