"""An export on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from lasttoken.errors import ExportRefused
from lasttoken.export.export import Wanted, export
from lasttoken.journal import Journal
from lasttoken.record.folder import is_export, verify
from lasttoken.wording import first_line


def push(folder: Path, to: str, *, public: bool, journal: Journal) -> str:
    """The address of the repository `to`, which now holds the export in `folder`; of a run, one to hf that is made for it.

    Raises ExportRefused where the Hub does not take it, and all that `export` raises.
    """
    if is_export(folder):
        verify(folder)
        return upload(folder, to, public=public, journal=journal)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / folder.resolve().name
        export(folder, made, Wanted(("hf",)), journal=journal)
        return upload(made, to, public=public, journal=journal)


def upload(folder: Path, to: str, *, public: bool, journal: Journal) -> str:
    """The address of the repository, made if it is not there, private unless `public`."""
    api = HfApi()
    journal.progress(f"uploading to {to}", 0, 0)
    try:
        made = api.create_repo(to, private=not public, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=f"lasttoken: {folder.name}")
    except OfflineModeIsEnabled as error:
        raise ExportRefused("--to: HF_HUB_OFFLINE is set, so nothing is sent; unset it and run again") from error
    except HFValidationError as error:
        raise ExportRefused(f"--to: {to!r} is no name of the Hub, such as owner/name ({first_line(error)})") from error
    except HfHubHTTPError as error:
        code = error.response.status_code
        hint = "; log in with `hf auth login`, or set HF_TOKEN to a token that may write" if code in (401, 403) else ""
        raise ExportRefused(f"--to {to}: the Hub answered {code} ({first_line(error)}){hint}") from error
    except OSError as error:
        raise ExportRefused(f"--to {to}: the Hub cannot be reached ({first_line(error)})") from error
    return str(made)
