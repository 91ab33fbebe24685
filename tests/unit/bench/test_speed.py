"""The arithmetic of the speed benchmark: who is compared with whom, what a bar came to, which rows are timed."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import make_tokenizer, sentences

from lasttoken.data.dataset import Dataset
from lasttoken.labels import LabelSpace

BENCH = Path(__file__).parents[3] / "bench/speed"
OURS = {"name": "ours", "ours": True, "tags": [], "batch": 8, "rows": 4, "rates": [40.0, 60.0, 50.0]}
PAPER = {"name": "paper", "ours": False, "tags": ["paper"], "batch": 8, "rows": 4, "rates": [4.0, 5.0, 6.0]}
QUICK = {"name": "quick", "ours": False, "tags": [], "batch": 32, "rows": 4, "rates": [20.0, 20.0, 20.0]}
RESULT: dict[str, Any] = {
    "case": "t.m.short",
    "contenders": [OURS, PAPER, QUICK],
    "machine": {"cpu": "a cpu", "device": "cpu (2 threads)", "dtype": "bfloat16"},
    "peak_flops": [1e3, 1e3, 1e3],
    "commit": "50d1fdc",
}
FROM = {"machine": "a cpu, bfloat16", "commit": "50d1fdc"}


@pytest.fixture(autouse=True)
def bench(scripts_of: Callable[[str], None]) -> None:
    scripts_of("speed")


def test_a_bar_is_set_against_the_fastest_peer_round_by_round() -> None:
    from table import bars

    case = {"rows": "short", "bars": {"short": {"best": 2.0, "paper": 12.0}, "long": {"best": 9.0}}}
    assert bars(case, RESULT) == {
        "t.m.short.best": {
            "ratio": 2.5,
            "low": 2.0,
            "high": 3.0,
            "bar": 2.0,
            "sense": "at least",
            "unit": "times",
            "runs": 3,
            "reached": True,
            "ours": "ours",
            "peer": "quick",
            **FROM,
        },
        "t.m.short.paper": {
            "ratio": 10.0,
            "low": pytest.approx(50 / 6),
            "high": 12.0,
            "bar": 12.0,
            "sense": "at least",
            "unit": "times",
            "runs": 3,
            "reached": False,
            "ours": "ours",
            "peer": "paper",
            **FROM,
        },
    }


def test_a_bar_of_time_turns_the_ratio_round_and_a_missing_peer_leaves_it_out() -> None:
    from table import bars

    case = {"rows": "short", "bars": {"short": {"paper": {"at_most": 0.2}, "four": {"at_most": 2.0}}}}
    (name, one), *rest = bars(case, RESULT).items()
    assert (name, one["ratio"], one["sense"], one["reached"], rest) == ("t.m.short.paper", 0.1, "at most", True, [])


def test_the_share_of_the_peak_is_of_the_same_round() -> None:
    from table import bars

    one = bars({"rows": "short", "share": 0.5}, {**RESULT, "flops_a_row": 10.0})["t.m.short.share"]
    assert (one["ratio"], one["low"], one["high"], one["reached"]) == (0.5, 0.4, 0.6, True)


def test_measures_have_bars_of_their_own() -> None:
    from table import bars

    result = {**RESULT, "case": "startup", "measures": {"help_seconds": {"value": 0.4, "unit": "seconds", "runs": 11}}}
    one = bars({"bars": {"help_seconds": 0.3}}, result)["startup.help_seconds"]
    assert (one["ratio"], one["bar"], one["runs"], one["reached"]) == (0.4, 0.3, 11, False)


def page(
    folder: Path, results: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> tuple[list[str], list[str]]:
    """The lines of the page, and of the tables, made from `results`, file by file."""
    import table

    shutil.copytree(BENCH / "experiments", folder / "experiments")
    (folder / "results").mkdir()
    for name, result in results.items():
        (folder / "results" / f"{name}.json").write_text(json.dumps(result))
    monkeypatch.setattr(table, "HERE", folder)
    pages = []
    for which in ("page", "tables"):
        table.main(which)
        pages.append(capsys.readouterr().out.splitlines())
    return pages[0], pages[1]


def test_the_page_of_nothing_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    first, lines = page(tmp_path, {}, monkeypatch, capsys)
    assert first[0] == "# Speed"
    assert "- **A GPU**: nothing has been measured; `bench/gpu.py`" in "\n".join(first)
    assert "## What was asked, and what was reached" not in first
    assert lines[lines.index("## Not measured yet") + 2] == "- embedding-training.tiny.short"
    assert lines[-2:] == ["- startup", "- bench/gpu.py, on any GPU"]


def test_the_page_tells_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    rows = {"slice": 4, "tokens_a_row": 9.5, "longest": 12, "pool_tokens_a_row": 9.6, "labels": 2}
    probe = {**RESULT, "case": "probe.tiny.short", "rows": rows, "rounds": 3, "agreement": {"quick": 0.0012}}
    help_page = {"value": 0.25, "unit": "seconds", "runs": 11}
    slow = {"value": 0.104, "unit": "seconds", "runs": 11}
    startup = {
        "case": "startup",
        "machine": RESULT["machine"],
        "commit": "50d1fdc",
        "measures": {"help_seconds": help_page, "import_seconds": slow},
    }
    trained = {"tokens/s": 41234.5, "share of peak": 0.42, "notes": ["long"], "largest": {"a kernel": [1.0, 2.0]}}
    steps = [
        {"step": "machine", "seconds": 9.0, "aims": {}, "figures": {"card": {"name": "NVIDIA H200", "driver": None}}},
        {"step": "train8b", "seconds": 61.0, "aims": {"NF4": "40 %"}, "figures": {"NF4": trained}, "error": "ended"},
        {"step": "peer", "seconds": 0.0, "skipped": "no time"},
    ]
    gpu = {"case": "gpu", "device": "cuda", "began": "2026-11-29 12:00", "steps": steps}
    results = {"probe.tiny.short": probe, "startup": startup, "gpu.H200": gpu, "summary": {}}
    first, lines = page(tmp_path, results, monkeypatch, capsys)
    assert "- **A GPU**: see [the tables](speed-tables.md)." in first
    start = first.index("## What was asked, and what was reached")
    cpu = "a cpu, bfloat16"
    assert first[start + 2].startswith("2 of 3 are reached; ")
    assert (
        first[start - 2] == "| Features of a frozen model, `tiny` (6.9 M) | short, 10 tokens | bfloat16 | 50.0 | 3.33 |"
    )
    assert first[start + 12 : start + 15] == [
        f"| Features of a frozen model, `tiny` (6.9 M), short | the best peer | 2.50 [2.00, 3.00] | at least 2 | reached | {cpu} |",
        f"| Start of a process | `lasttoken --help`, seconds | .250 | at most 0.3 | reached | {cpu} |",
        f"| Start of a process | `import lasttoken`, seconds | .104 | at most 0.1 | **not reached** | {cpu} |",
    ]
    start = lines.index("### `tiny` (6.9 M), short rows")
    assert lines[start + 2].endswith("What both sides say differs by at most 0.12% (L2 norm).")
    assert lines[start + 6 : start + 9] == [
        "| **ours** | 50.0 [40.0, 60.0] |  |  |",
        "| quick | 20.0 [20.0, 20.0] | 2.50 |  |",
        "| paper | 5.00 [4.00, 6.00] | 10.0 | 10.0 |",
    ]
    start = lines.index("## One GPU: NVIDIA H200")
    assert lines[start + 6 : start + 13] == [
        "| machine | card | name NVIDIA H200 |  |",
        "| train8b | NF4 | tokens/s 41,234, share of peak .420 | 40 % |",
        "",
        "Not measured, or not to its end:",
        "",
        "- train8b: ended",
        "- peer: no time",
    ]


def test_every_asked_bar_stands_in_the_experiments() -> None:
    from table import experiments

    asked = {
        (one["task"], rows, name): bound
        for one in experiments()
        for rows, bars in one["bars"].items()
        if isinstance(bars, dict)
        for name, bound in bars.items()
    }
    assert asked == {
        ("embedding-training", "short", "best"): 4.0,
        ("embedding-training", "short", "paper"): 7.0,
        ("embedding-training", "long", "best"): 3.0,
        ("embedding-training", "long", "paper"): 5.0,
        ("embedding-inference", "short", "paper"): 5.0,
        ("embedding-inference", "long", "paper"): 4.0,
        ("instruction-training", "short", "best"): 4.0,
        ("instruction-training", "long", "best"): 3.0,
        ("instruction-scoring", "short", "one"): 15.0,
        ("instruction-scoring", "short", "batched"): 5.0,
        ("instruction-scoring", "long", "one"): 15.0,
        ("instruction-scoring", "long", "batched"): 5.0,
        ("label-count", "questions", "four"): {"at_most": 6.1},
        ("probe", "short", "best"): 2.0,
        ("probe", "long", "best"): 1.8,
    }


def test_contenders_alternate_and_of_a_family_the_fastest_stays() -> None:
    from rounds import Contender, Pass, compare

    ran: list[str] = []

    def contender(name: str, seconds: float, **more: Any) -> Contender:
        output = np.full((2, 1), {"ours": 2.0, "slow": 3.0, "fast": 2.5}[name])

        def run() -> Pass:
            ran.append(name)
            return Pass(seconds, output)

        return Contender(name, np.array([3, 4]), run, **more)

    three = [
        contender("ours", 0.5, ours=True, batch=8),
        contender("slow", 4.0, family="peer"),
        contender("fast", 2.0, family="peer", tags=("paper",)),
    ]
    peaks = itertools.count(1.0)
    found = compare(three, rounds=4, peak=lambda: next(peaks))
    assert ran[:5] == ["ours", "slow", "fast", "slow", "fast"]  # a warm-up, then the family's members once more
    pairs = [tuple(ran[i : i + 2]) for i in range(5, len(ran), 2)]
    assert len(pairs) == 4
    assert set(pairs) == {("ours", "fast"), ("fast", "ours")}
    assert found["contenders"] == [
        {"name": "ours", "ours": True, "tags": [], "batch": 8, "rows": 2, "rates": [4.0] * 4},
        {
            "name": "fast",
            "ours": False,
            "tags": ["paper"],
            "batch": None,
            "rows": 2,
            "rates": [1.0] * 4,
        },
    ]
    assert found["left_out"] == [{"name": "slow", "seconds": 4.0, "best": "fast", "its": 2.0}]
    assert found["peak_flops"] == [1.0, 2.0, 3.0, 4.0]
    assert found["agreement"] == {"fast": 0.25}


def test_ways_are_read_from_their_words() -> None:
    from run import our_ways, ways

    assert ways(["nf4 8", "native 32 grouped"]) == [("nf4", 8, False), ("none", 32, True)]
    assert our_ways(["native 32", "nf4 8"]) == [("none", 32), ("nf4", 8)]
    with pytest.raises(SystemExit, match="'native 32 compiled': what follows the batch can only be 'grouped'"):
        our_ways(["native 32 compiled"])
    with pytest.raises(SystemExit, match="'native 32 grouped': ours packs rows and does not group them"):
        our_ways(["native 32 grouped"])


def test_a_way_of_ours_can_be_left_out() -> None:
    from ablation import without

    from lasttoken.model.layout import lay_out

    plain = lay_out([70, 3], causal=True, device=torch.device("cpu"))
    with without("few-sizes"):
        bare = lay_out([70, 3], causal=True, device=torch.device("cpu"))
    assert (plain.filler, bare.filler) == (7, 0)  # 73 tokens run as 80, a multiple of 16


def test_a_slice_is_made_of_groups_that_are_alike_in_length() -> None:
    from rows import cut

    texts, tokenizer = sentences(400), make_tokenizer()
    labels = LabelSpace(("a", "b"))
    data = Dataset([str(i) for i in range(400)], texts, np.arange(400) % 2, labels)
    part = cut(data, tokenizer, groups=5, limit=60, size=8)
    assert len(part.texts) == len(part.lengths) == 40
    assert part.lengths.tolist() == [min(60, len(ids)) for ids in tokenizer(list(part.texts))["input_ids"]]
    groups = part.lengths.reshape(5, 8)
    assert (np.diff(groups.mean(axis=1)) > 0).all()
    assert np.ptp(groups, axis=1).tolist() == [7, 2, 3, 3, 2]  # tokens; of the whole slice it is 38
    assert part.part(2).tolist() == [0, 1, 8, 9, 16, 17, 24, 25, 32, 33]
    assert part.part(32).tolist() == list(range(40))
    assert abs(part.lengths.mean() - part.pool_tokens) < 1  # as long as the set's, on average


def test_needed_arithmetic_by_hand() -> None:
    from models import flops
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, intermediate_size=16
    )
    kv, q, out, mlp = 8 * 4 * 2, 8 * 8, 8 * 8, 3 * 8 * 16
    tokens, pairs, rows = 3 + 5, 9 + 25, 2
    weights = 2 * kv * tokens + (q + out + mlp) * (tokens + rows)  # the last block's for one token a row
    attention = 2 * 8 * pairs + 4 * 8 * tokens  # half of the pairs, and in the last block one query a row
    forward = 2 * weights + attention
    assert flops(config, np.array([3, 5]), training=False) == forward
    low = 4 * (2 * 2 * (8 + 4) * tokens + ((8 + 8) + (8 + 8) + 3 * (8 + 16)) * (tokens + rows))  # rank 4
    wanted = forward + 2 * (weights - (kv + q) * tokens) + 2 * attention + 6 * low
    assert flops(config, np.array([3, 5]), training=True, rank=4) == wanted


def test_random_texts_have_the_lengths_that_were_drawn() -> None:
    from memory_models import lengths_of, random_rows
    from models import tokenizer_of

    from lasttoken.model.files import TINY

    tokenizer = tokenizer_of(TINY)
    for kind in ("128", "mix"):
        data, lengths = random_rows(kind, 32, tokenizer)
        assert [len(ids) for ids in tokenizer(list(data.texts))["input_ids"]] == lengths.tolist()
    mixed = lengths_of("mix", 4000, np.random.default_rng(0))
    assert (mixed.min(), mixed.max()) == (26, 880)
    assert mixed.mean() == pytest.approx((68.1 + 174.8) / 2, abs=3)  # the means of the two sets


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::mm", "matrix products"),
        ("aten::expand", "views of tensors"),
        ("aten::exp", "elementwise"),
        ("aten::to", "copies and gathers"),
        ("aten::t", "views of tensors"),
        ("aten::topk", "everything else"),
        ("aten::index_select", "copies and gathers"),
        ("aten::masked_fill_", "copies and gathers"),
        ("aten::mul_", "elementwise"),
        ("LowRank", "everything else"),
    ],
)
def test_operations_are_of_one_kind(name: str, kind: str) -> None:
    from profiled import kind_of

    assert kind_of(name) == kind


def test_a_profile_counts_the_work_of_every_thread() -> None:
    from profiled import shares
    from rounds import Contender, Pass

    left = torch.ones(400, 400)  # made outside: filling fresh memory may take longer than a product

    def run() -> Pass:
        worker = threading.Thread(target=lambda: [left @ left for _ in range(20)])
        worker.start()
        worker.join()
        return Pass(1.0)

    found = shares(Contender("side by side", np.arange(1), run))
    assert sum(share for _, share, _ in found) == pytest.approx(1.0)
    assert max(found, key=lambda one: one[1])[0] == "matrix products"


def test_a_bar_of_one_batch_is_set_against_peers_of_that_batch() -> None:
    from table import bars

    eight = {**OURS, "name": "eight", "rates": [30.0, 30.0, 30.0]}
    more = [{**OURS, "batch": 32}, eight, PAPER, QUICK]
    case = {"rows": "short", "bars": {"short": {"rows8": 1.6, "rows32": 1.3}}}
    found = bars(case, {**RESULT, "contenders": more})
    assert {name: (one["ours"], one["peer"], one["ratio"]) for name, one in found.items()} == {
        "t.m.short.rows8": ("eight", "paper", 6.0),
        "t.m.short.rows32": ("ours", "quick", 2.5),
    }
