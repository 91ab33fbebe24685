"""README shows what runs, and stays short. A file of its own, because its examples take as long as those of four guides."""

from pathlib import Path

from pages import ROOT, run_examples


def test_every_example_runs(tmp_path: Path, programs: Path) -> None:
    run_examples("README.md", tmp_path, programs)


def test_readme_is_at_most_150_lines_of_120_characters() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []
