"""Datasets of the Hugging Face Hub, or of the `datasets` library in memory, as tables.

Class numbers become class names. The splits of a dataset become train, valid and test. A split with a name that is not
known to be one of these is left out with a warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lasttoken.data.records import check_columns
from lasttoken.data.split import PARTS
from lasttoken.data.tables import Table
from lasttoken.errors import DataError

if TYPE_CHECKING:
    import datasets


def hub_table(source: str, wanted: Sequence[str]) -> Table:
    """The records of `hub:owner/name[:config]`, from the local cache or over the network."""
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    name, _, config = source.removeprefix("hub:").partition(":")
    if not name:
        raise DataError(f"{source}: names no data set; write hub:owner/name or hub:owner/name:config")
    try:
        parts = datasets.load_dataset(name, config or None)
    except (OSError, ValueError, RuntimeError, DatasetsError, HfHubHTTPError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        searched = f"data set {name!r}" + (f", config {config!r}," if config else "")
        raise DataError(
            f"{source}: {searched} is not in the local cache and cannot be loaded from the Hub ({reason}); "
            "check the name, or work offline with a .csv, .jsonl or .parquet file"
        ) from error
    return parts_table(parts, wanted, source)


def parts_table(parts: Mapping[Any, datasets.Dataset], wanted: Sequence[str], name: str) -> Table:
    """The records of all parts, those of train first."""
    known = sorted((part for part in parts if str(part) in PARTS), key=lambda part: list(PARTS).index(str(part)))
    others = sorted(str(part) for part in parts if part not in known)
    if not known:
        raise DataError(
            f"{name}: none of its parts ({', '.join(others)}) is {', '.join(PARTS)}; save the part you mean as a file"
        )
    uses = [PARTS[str(part)] for part in known]
    if len(set(uses)) < len(uses):
        raise DataError(
            f"{name}: two parts ({', '.join(map(str, known))}) have the same use; save the parts you mean as files"
        )
    if others:
        warnings.warn(
            f"{name}: left out the parts {', '.join(others)}, which are none of {', '.join(PARTS)}", stacklevel=2
        )
    for part in known:
        check_columns(wanted, parts[part].column_names, f"{name}, {part}")

    def records() -> Iterator[tuple[int, tuple[Any, ...]]]:
        number = 0
        for part in known:
            for cells in dataset_cells(parts[part], wanted):
                yield number, cells
                number += 1

    sizes = tuple((use, len(parts[part])) for use, part in zip(uses, known, strict=True))
    return Table(name, "row", records(), sizes)


def dataset_table(dataset: datasets.Dataset, wanted: Sequence[str]) -> Table:
    """The records of one data set in memory."""
    check_columns(wanted, dataset.column_names, "the data set")
    return Table("the data set", "row", enumerate(dataset_cells(dataset, wanted)))


def dataset_cells(dataset: datasets.Dataset, wanted: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The cells of each row, class labels as names, one batch in memory at a time."""
    decoders = [decoder(dataset.features[column]) for column in wanted]
    plain = dataset.with_format(None).select_columns(list(dict.fromkeys(wanted)))
    for batch in plain.iter(batch_size=1000):
        columns = [map(decode, batch[column]) for decode, column in zip(decoders, wanted, strict=True)]  # type: ignore
        yield from zip(*columns, strict=True)


def decoder(feature: object) -> Callable[[Any], Any]:
    """The function from a stored cell to its value, with class numbers turned into names."""
    import datasets

    if isinstance(feature, datasets.ClassLabel):
        return lambda cell: None if cell is None or cell < 0 else feature.int2str(cell)  # -1: no label
    if isinstance(feature, datasets.List | datasets.LargeList) and isinstance(feature.feature, datasets.ClassLabel):
        one = decoder(feature.feature)
        return lambda cell: None if cell is None else [one(item) for item in cell]
    return lambda cell: cell
