"""What the tutorial and the guides show is run."""

from pathlib import Path

import pytest
from pages import GUIDES, run_examples


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_every_example_of_the_page_runs(page: str, tmp_path: Path, programs: Path) -> None:
    run_examples(page, tmp_path, programs)
