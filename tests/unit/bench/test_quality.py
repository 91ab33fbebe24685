"""The parts of the quality benchmark that are more than a call: a head by itself, and data without a difference."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import dataset

from lasttoken.data.dataset import Splits
from lasttoken.evaluation.metrics import METRICS
from lasttoken.journal import Journal


@pytest.fixture(autouse=True)
def bench(scripts_of: Callable[[str], None]) -> None:
    scripts_of("quality")


@pytest.mark.parametrize("multi", [False, True])
def test_a_head_alone_learns_by_its_loss(folder: Callable[..., Path], multi: bool) -> None:
    from head_only import fit_and_predict

    train, valid = dataset(96, multi=multi), dataset(32, multi=multi, seed=1)
    splits = Splits(train, valid, replace(valid), "made up")
    settings = {"method": "embedding", "model": str(folder("llama")), "pooling": "mean", "max_length": 32}
    said = {}
    for loss in ("cross_entropy", "focal"):
        checked, tested, seconds, predicting = fit_and_predict({**settings, "loss": loss}, splits, Journal())
        np.testing.assert_array_equal(checked, tested)  # the same rows
        assert seconds > 0 < predicting
        said[loss] = tested
    plain, focal = said["cross_entropy"], said["focal"]
    chance = np.broadcast_to(train.targets.mean(axis=0) if multi else np.bincount(train.targets) / 96, plain.shape)
    log_loss = METRICS["log_loss"]
    assert log_loss(valid.targets, plain) < log_loss(valid.targets, chance)
    assert (np.allclose(plain.sum(axis=1), 1)) != multi
    assert np.abs(plain - focal).max() > 0.01
    assert log_loss(valid.targets, plain) < log_loss(valid.targets, focal)  # which does not ask for calibrated claims


def test_a_result_holds_the_score_of_every_row_and_the_cost_of_the_fit() -> None:
    from run import run

    train, test = dataset(96), dataset(32, seed=1)
    splits = Splits(train, test, replace(test), "made up")
    result = run({"linear": {"min_count": 1}}, "linear", 0, splits)
    assert result["settings"] == {"method": "linear", "min_count": 1}
    assert (result["problem"]["test"], result["test"]["n"]) == (32, 32)
    assert result["cost"]["trainable_parameters"] == result["cost"]["total_parameters"] > 0
    assert list(result["policies"]) == ["raw", "auto"]
    assert result["predict_rows_per_second"] > 0


def test_methods_of_the_null_are_equally_good() -> None:
    from false_positives import CASES, said, trial

    rng = np.random.default_rng(0)
    for draw, metric, _, seeds, rows in CASES.values():
        scores = []
        for _ in range(40):
            y = draw(rng, max(rows, 40))
            scores.append([np.mean([METRICS[metric](y, one.probs) for one in said(y, rng, seeds)]) for _ in range(2)])
        apart = np.diff(np.array(scores), axis=1)
        assert abs(apart.mean()) < 3 * apart.std() / np.sqrt(len(apart))
        assert apart.std() > 0
    found = trial("one label, macro-F1, three methods", 0)
    assert len(found.pairs) == 3
    assert found.to_dict() == trial("one label, macro-F1, three methods", 0).to_dict()


def test_a_promise_is_held_against_what_is_true() -> None:
    from guarantees import CASES, Case, broken, outcomes, ten_cuts

    name = "precision .9 of a label, nothing shows it"
    found = [outcomes(CASES[name], seed) for seed in range(200)]
    shares = {rule: np.mean([one[rule][0] for one in found]) for rule in found[0]}
    # Binomial(200, .1): mean 20, standard deviation 4.2; above 33 with a chance of .002
    assert shares["lasttoken"] <= 33 / 200 < 0.25 < shares["every cut, uncorrected"]
    assert all(one[rule][0] == (one[rule][1] > 0) for one in found for rule in one)  # any promise is broken there

    sure = np.array([0.95, 0.9, 0.6])  # `draw` of a population of which half claims .9 and is right that often
    half = Case(3, 0.8, 0.1, lambda rng, rows: np.tile([0.9, 0.6], rows // 2))
    assert [broken(half, sure, count) for count in (0, 2, 3)] == [False, False, True]
    assert ten_cuts(np.arange(1, 101), 0.95, 0.1) == 100  # all are right
    assert ten_cuts(np.arange(1, 101), 0.96, 0.1) == 0  # 100 rows show .955 at a hundredth


def test_results_before_and_after_are_paired_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import before_after
    from run import packed

    def write(folder: str, name: str, wrong: int, **settings: object) -> None:
        right = np.arange(200) >= wrong
        result = {
            "problem": {"test": 200},
            "seed": int(name[-1]),
            "commit": folder * 3,
            "right": packed(right[:, None]),
        }
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.json").write_text(
            json.dumps({**result, "settings": {"model": "tiny", **settings}})
        )

    for seed in (0, 1):
        write("old", f"news.linear.{seed}", 40 + seed)
        write("new", f"news.linear.{seed}", 40 + seed)
        write("old", f"news.embedding.{seed}", 80 + seed)
        write("new", f"news.embedding.{seed}", 20 + seed, pooling="mean")
    write("new", "news.probe.0", 10)  # before, there was none
    monkeypatch.setattr("sys.argv", ["before_after.py", str(tmp_path / "old"), str(tmp_path / "new")])
    before_after.main()
    embedding, linear = capsys.readouterr().out.splitlines()
    # seeds .8 and .795 on either side: t(2) at 97.5 %, 4.303, times sqrt(2 * 1.25e-5 / 2)
    assert linear == "news.linear: +.000 [-.015, +.015] of 200 rows (seeds 0, 1; oldoldol to newnewne)"
    assert embedding.startswith("news.embedding: +.300 [+.2")
    assert embedding.endswith("; settings that differ: pooling)")
    monkeypatch.setattr("sys.argv", ["before_after.py", str(tmp_path / "old"), str(tmp_path)])
    with pytest.raises(SystemExit, match=r"no result is in both"):
        before_after.main()


def test_rows_of_each_label_are_as_many_as_asked_and_nested() -> None:
    from run import drawn_by_label

    splits = Splits(dataset(96), dataset(32, seed=1), dataset(32, seed=2), "made up")
    small, large = (drawn_by_label(splits, rows, seed=0) for rows in (2, 12))
    assert np.bincount(small.train.targets).tolist() == [2, 2, 2]
    assert np.bincount(large.train.targets).tolist() == [12, 12, 12]
    assert set(small.train.ids) < set(large.train.ids)
    assert (np.bincount(small.valid.targets).tolist(), np.bincount(large.valid.targets).tolist()) == ([2] * 3, [3] * 3)
    assert set(small.train.ids) != set(drawn_by_label(splits, 2, seed=1).train.ids)


def test_time_to_quality_is_that_of_the_first_validation_at_the_best_peers_score() -> None:
    from time_to_quality import verdict

    fits = {
        "worse": [{"seconds": 50.0, "score": 0.7}],
        "better": [{"seconds": 40.0, "score": 0.6}, {"seconds": 80.0, "score": 0.9}, {"seconds": 120.0, "score": 0.8}],
        "ours": [{"seconds": 10.0, "score": 0.5}, {"seconds": 20.0, "score": 0.9}, {"seconds": 30.0, "score": 0.95}],
    }
    fits = {key: {"settings": {}, "validations": told} for key, told in fits.items()}
    assert verdict(fits) == {"score": 0.9, "best": "better", "peer": 120.0, "ours": 20.0, "share": 0.167}
    never = {**fits, "ours": {"settings": {}, "validations": fits["ours"]["validations"][:1]}}
    assert verdict(never) == {"score": 0.9, "best": "better", "peer": 120.0, "ours": None, "share": None}


def test_every_rule_keeps_one_validation_of_a_training() -> None:
    from selection import rules

    valid = [
        (0, 0.5, 1.0, 0.50),
        (10, 0.9, 0.6, 0.70),
        (20, 0.9, 0.7, 0.80),
        (30, 0.85, 0.8, 0.75),
        (40, 0.5, 0.9, 0.6),
    ]
    points = [dict(zip(("update", "valid", "log_loss", "test"), row, strict=True)) for row in valid]
    assert {rule: point["update"] for rule, point in rules(points, rows=100).items()} == {
        "first of the highest": 10,
        "last of the highest": 20,
        "latest within half a standard error": 20,  # .015 of .9 by 100 rows
        "latest within a standard error": 20,  # .03
        "lowest log-loss": 10,
        "last": 40,
        "highest on test, which nobody knows": 20,
    }
    assert rules(points, rows=25)["latest within a standard error"]["update"] == 30  # .06
