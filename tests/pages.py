"""What README and docs show is run: every `sh` and `python` block, in its order, in one folder a page.

Hub models are not to be had offline, so their names are replaced by `tiny`; nothing else is changed.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

from lasttoken.cli.demo import write_csv
from lasttoken.data.demo import docstring_rows

ROOT = Path(__file__).parent.parent
GUIDES = [
    "docs/tutorial.md",
    "docs/guides/training.md",
    "docs/guides/multi-label.md",
    "docs/guides/instruction.md",
    "docs/guides/plan.md",
    "docs/guides/decisions.md",
    "docs/guides/checking.md",
    "docs/guides/comparing.md",
    "docs/guides/explaining.md",
    "docs/guides/long-texts.md",
    "docs/guides/reproduce.md",
    "docs/guides/serve.md",
    "docs/guides/resume.md",
    "docs/guides/predict.md",
    "docs/guides/export.md",
    "docs/guides/watch.md",
]
HUB_MODELS = ("Qwen/Qwen3-0.6B-Base", "meta-llama/Llama-3.2-1B")


WORDS = 20  # of a text, where a page does not speak of long ones: commands run as they stand, all epochs too


def write_rows(folder: Path, words: int | None) -> None:
    """The files that the pages speak of, from real text: which stars a row has depends on its library."""
    rows = docstring_rows(rows=120)
    names = sorted({names[0] for names in rows.labels})
    lines = {
        "reviews": ["title,body,stars"],
        "new": ["body,title"],
        "tagged": ["body,tags"],
        "flags": ["body,cheap,sturdy,late"],
    }
    for text, (label,) in zip(rows.texts, rows.labels, strict=True):
        title, body = (
            text.split(" ", 1)[0].replace('"', ""),
            '"' + " ".join(text.replace('"', "'").split()[:words]) + '"',
        )
        stars = names.index(label) % 5 + 1
        tags = [tag for tag, yes in (("cheap", stars > 2), ("sturdy", stars % 2), ("late", stars < 3)) if yes]
        lines["reviews"].append(f'"{title}",{body},{stars}')
        lines["new"].append(f'{body},"{title}"')
        lines["tagged"].append(f"{body},{';'.join(tags)}")
        lines["flags"].append(f"{body},{int('cheap' in tags)},{int('sturdy' in tags)},{int('late' in tags)}")
    for name, content in lines.items():
        (folder / f"{name}.csv").write_text(
            "\n".join(content[:61] if name != "new" else content[:6]) + "\n", encoding="utf-8"
        )
    (folder / "demo").mkdir()
    write_csv(rows, folder / "demo/docstrings.csv")
    header, *rest = lines["reviews"]
    (folder / "test.csv").write_text("\n".join([header, *rest[60:]]) + "\n", encoding="utf-8")


def run_examples(page: str, folder: Path, programs: Path) -> None:
    """Run every block of a page in `folder`. programs: what stands for `lasttoken` and `python -c` (warm.py)."""
    write_rows(folder, None if page.endswith("long-texts.md") else WORDS)
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)
    assert blocks, f"{page} shows nothing"
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for language, code in blocks:
        for name in HUB_MODELS:
            code = code.replace(name, "tiny")
        command = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [str(programs / "run-python")]
        done = subprocess.run(
            [*command, code], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join([*command, code])}\n{done.stdout}\n{done.stderr}"
