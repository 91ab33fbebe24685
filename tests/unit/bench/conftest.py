"""The benchmarks are scripts beside one another, and two of them have modules of the same names."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[3] / "bench"


@pytest.fixture
def scripts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """scripts_of(benchmark): its modules can be imported, and none that another test has imported stands in their place."""

    def use(benchmark: str) -> None:
        for path in BENCH.glob("*/*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
        monkeypatch.syspath_prepend(str(BENCH / benchmark))

    return use
