"""Locations of model files, and error messages if they are missing. Without torch, for `lasttoken plan`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from lasttoken.errors import ModelError
from lasttoken.model.gguf import file_of, folder_of, from_gguf, made_folder
from lasttoken.model.gguf_config import config_of
from lasttoken.model.gguf_header import read_header
from lasttoken.packages import ASKED, INSTALL, MINILM, SMOLLM2, installed_minilm, installed_smollm2
from lasttoken.wording import did_you_mean, first_line

EMBEDDED = ("tiny", SMOLLM2, MINILM)  # names that need no hub
TINY = Path(__file__).parent / "tiny"


def locate(name: str) -> str:
    """The argument for from_pretrained: the folder of an embedded or packaged model, a local folder, or a hub name.

    `smollm2` and a GGUF file are de-quantised into a folder of the cache the first time. Raises ModelError.
    """
    if name == "tiny":
        return str(TINY)
    if name == MINILM:
        return str(installed_minilm() or not_installed(name))
    if from_gguf(name):
        return str(folder_of(name))
    refuse_unnamed_gguf(name)
    return name


def refuse_unnamed_gguf(name: str) -> None:
    """Raises ModelError on a folder of GGUF files, which of them being left open."""
    files = sorted(Path(name).glob("*.[gG][gG][uU][fF]")) if Path(name).is_dir() else []
    if files and not (Path(name) / "config.json").is_file():
        raise ModelError(f"model {name!r}: a folder of GGUF files; name one of them: --model {files[0]}")


def not_installed(name: str) -> NoReturn:
    """Raises ModelError on a packaged model that is not installed."""
    raise ModelError(f"model {name!r} is not installed; {INSTALL[name]}")


def not_found(name: str, error: Exception) -> str:
    """Error message for a model that does not load, by the cause of `error`."""
    if "trust_remote_code" in str(error):
        return f"model {name!r} brings its own code, which is not run unless you set trust_remote_code = true"
    if isinstance(error, ImportError):
        return f"model {name!r} needs a library that is not installed: {first_line(error)}"
    if "gated repo" in str(error):
        return f"model {name!r} is gated: request access at https://huggingface.co/{name}, then `hf auth login` on this machine"
    if "Unrecognized configuration class" in str(error):
        return f"model {name!r} is not a causal language model supported by transformers; for an encoder use --method encoder"
    if name == "tiny" or Path(name).is_dir():
        return (
            f"model {name!r}: the folder {locate(name)} holds no model that transformers can read ({first_line(error)})"
        )
    return f"{missing(name)} ({first_line(error)})"


def missing(name: str) -> str:
    """Error message for a missing model: where was searched, and how to work offline."""
    cache = os.environ.get("HF_HUB_CACHE", str(Path(os.environ.get("HF_HOME", "~/.cache/huggingface")) / "hub"))
    hub = "huggingface.co was not asked (HF_HUB_OFFLINE is set)" if offline() else "huggingface.co"
    place = name if os.path.isabs(name) else f"./{name}"
    meant = did_you_mean(name, EMBEDDED)
    hint = f"{meant} Or give" if meant else "; check the spelling, or give"
    origin = f" (of the environment variable {ASKED})" if os.environ.get(ASKED) == name else ""
    return (
        f"model {name!r}{origin} not found: searched the folder {place}, the cache {cache}, and {hub}{hint} "
        "a local folder (to work offline: `hf download NAME --local-dir DIR` on a machine with a network); "
        "'tiny' needs no download"
    )


def on_this_machine(name: str) -> bool:
    """Whether a model loads without a download: `tiny`, a folder, or a cached hub model."""
    if name == "tiny" or Path(name).is_dir() or (from_gguf(name) and Path(name).is_file()):
        return True
    if name in INSTALL:
        return bool(installed_minilm() if name == MINILM else installed_smollm2())
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:  # the path of a missing folder is no valid hub name
        return False


def find_file(model: str, revision: str | None, name: str, *, download: bool) -> Path | None:
    """The path of a model's file: in its folder, in the hub's cache, or downloaded; None where it is not there.

    A GGUF file is not de-quantised for it.
    Raises ModelError where it is to be downloaded and cannot be.
    """
    folder = made_folder(model) if from_gguf(model) else Path(locate(model))
    if folder is None:
        return None
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, name, revision=revision)
        if not isinstance(found, str):
            found = hf_hub_download(model, name, revision=revision) if download else None
        return Path(found) if found else None
    except (OSError, HFValidationError) as error:
        raise ModelError(not_found(model, error)) from error


def offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def check_model(name: str) -> None:
    """Raises ModelError on a model that is not on this machine and cannot be on the hub (offline, or no valid name)."""
    if from_gguf(name) and made_folder(name) is None:
        config_of(read_header(file_of(name)))
    if name == MINILM and not on_this_machine(name):
        not_installed(name)
    refuse_unnamed_gguf(name)
    repository = len(name.strip("/").split("/")) == 2 and not name.startswith((".", "/"))
    if not on_this_machine(name) and (offline() or not (repository or "/" not in name)):
        raise ModelError(missing(name))
