"""One run that is served: its predictor behind a batcher, and what there is to tell of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lasttoken.evaluation.decisions import HALF
from lasttoken.predictor import Predictor
from lasttoken.record.folder import MANIFEST, digest, read_json
from lasttoken.serve.batcher import TOKENS, Batcher


@dataclass(frozen=True, eq=False)
class Served:
    """A run's predictor behind a batcher."""

    name: str
    predictor: Predictor
    batcher: Batcher
    method: str
    base: str | None  # name of the base model
    digest: str  # sha256 of the run's manifest, which names that of every file
    limit: int  # tokens of a text that the model reads at most; 0 without a limit
    since: int  # seconds since 1970

    def thresholds(self) -> list[float] | None:
        """The probability from which each label is given, (C,); None where the most probable label is."""
        rule = self.predictor.policy.rule
        if not self.predictor.labels.multi or rule.top:
            return None
        return [HALF] * len(self.predictor.labels) if rule.thresholds is None else rule.thresholds.tolist()


def sharing(folders: Mapping[str, Path]) -> list[list[str]]:
    """Groups of two or more runs that have their frozen base model in common, loaded in the same way, by name."""
    groups = dict[tuple[object, ...], list[str]]()
    for name, folder in folders.items():
        settings = read_json(folder / "method.json")
        if "base" in settings:
            config = settings["config"]
            same = ("method", "model", "revision", "quantize", "precision")
            groups.setdefault(tuple(config.get(each) for each in same), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def has_adapter(folder: Path) -> bool:
    """Whether the run in `folder` has an adapter, which may be merged into its base model."""
    return (folder / "adapter").is_dir()


def served(
    name: str,
    folder: Path,
    predictor: Predictor,
    *,
    tokens: int = TOKENS,
    batched: Callable[[int], None] = lambda _: None,
) -> Served:
    """The run in `folder`, read as `predictor`, behind a batcher."""
    settings = read_json(folder / "method.json")
    config, base = settings["config"], settings.get("base") or {}
    return Served(
        name,
        predictor,
        Batcher(predictor, tokens=tokens, batched=batched),
        config["method"],
        base.get("name") or config.get("model"),
        digest(folder / MANIFEST),
        int(config.get("max_length") or 0),
        int(time.time()),
    )
