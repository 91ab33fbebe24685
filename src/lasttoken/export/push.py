"""An export on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from lasttoken.config.forms import Wanted
from lasttoken.errors import ExportRefused
from lasttoken.export.export import export
from lasttoken.journal import Journal
from lasttoken.record.folder import MANIFEST, is_export, read_json, verify
from lasttoken.wording import first_line


def push(folder: Path, to: str, *, public: bool, journal: Journal) -> str:
    """The address of the repository `to`, which now holds the export in `folder`; of a run, one to hf that is made for it.

    Raises ExportRefused where the Hub does not take it, and all that `export` raises.
    """
    if is_export(folder):
        verify(folder)
        check_base(folder)
        return upload(folder, to, public=public, journal=journal)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / folder.resolve().name
        export(folder, made, Wanted(("hf",)), journal=journal)
        return upload(made, to, public=public, journal=journal)


def transport_error() -> type[Exception]:
    """What huggingface_hub raises where no connection comes about: an error of the library that it speaks HTTP with."""
    library = import_module("httpx2" if find_spec("httpx2") else "httpx")
    return library.TransportError


def check_base(folder: Path) -> None:
    """Raises ExportRefused on an adapter whose base model is a folder of this machine, which nobody else has."""
    config = folder / "peft" / "adapter_config.json"
    base = read_json(config)["base_model_name_or_path"] if config.is_file() else ""
    if base and Path(base).exists():
        raise ExportRefused(
            f"{config}: its base model is {base}, on this machine alone; export --to hf, which holds all weights"
        )


def upload(folder: Path, to: str, *, public: bool, journal: Journal) -> str:
    """The address of the repository, made if it is not there, private unless `public`."""
    api = HfApi()
    journal.progress(f"uploading to {to}", 0, 0)
    try:
        made = api.create_repo(to, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=[*read_json(folder / MANIFEST)["sha256"], MANIFEST],  # what else lies there is not sent
            delete_patterns="*",  # an earlier export's files beside these would load as one model
            commit_message=f"lasttoken: {folder.name}",
        )
    except OfflineModeIsEnabled as error:
        raise ExportRefused("--to: HF_HUB_OFFLINE is set, so nothing is sent; unset it and run again") from error
    except HFValidationError as error:
        raise ExportRefused(f"--to: {to!r} is no name of the Hub, such as owner/name ({first_line(error)})") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        hint = "; log in with `hf auth login`, or set HF_TOKEN to a token that may write" if code in (401, 403) else ""
        raise ExportRefused(f"--to {to}: the Hub answered {code} ({first_line(error)}){hint}") from error
    except LocalTokenNotFoundError as error:
        raise ExportRefused(
            f"--to {to}: log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        ) from error
    except (OSError, transport_error()) as error:
        raise ExportRefused(f"--to {to}: the Hub cannot be reached ({first_line(error)}); try again") from error
    return str(made)
