from pathlib import Path

import numpy as np
import pytest

from lasttoken import LinearClassifier, load
from lasttoken.data.dataset import Dataset, Splits
from lasttoken.data.splits_file import data_digest
from lasttoken.errors import DataError
from lasttoken.evaluation.decisions import Rule, fit_thresholds
from lasttoken.evaluation.problem_metrics import problem_metrics
from lasttoken.hierarchy import by_separator, coherent, consistent, hierarchy_of, read_hierarchy, upwards
from lasttoken.labels import LabelSpace

ABOVE = ((), (0,), (1, 0), ())  # A, A/B below it, A/B/C below that; D alone


def write(path: Path, text: str) -> Path:
    path.write_text("label,parent\n" + text, encoding="utf-8")
    return path


def test_labels_spell_out_what_lies_above_them() -> None:
    tree = by_separator(["A/A61/A61K", "B"], "/")
    assert tree.above("A/A61/A61K") == ("A/A61", "A")
    assert tree.closed(["A/A61/A61K", "B"]) == ("A/A61/A61K", "A/A61", "A", "B")
    space = LabelSpace(("A", "A/A61", "A/A61/A61K", "B"), multi=True)
    assert tree.columns(space) == ((), (0,), (1, 0), ())


def test_a_separator_that_no_label_holds_and_empty_levels_are_refused() -> None:
    with pytest.raises(DataError, match="hierarchy '>': no label holds it; name the separator of your labels"):
        by_separator(["A/B", "C"], ">")
    with pytest.raises(DataError, match="label 'A//B' has an empty level"):
        by_separator(["A//B"], "/")


def test_a_file_names_the_parents(tmp_path: Path) -> None:
    path = write(tmp_path / "tree.csv", "cat,animal\nanimal,\n\ndog,animal\n")
    assert hierarchy_of(str(path), []).above("cat") == ("animal",)
    with pytest.raises(DataError, match=r"label 'cta' is not in the hierarchy; did you mean 'cat'\?; give it a line"):
        read_hierarchy(path).closed(["cta"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a,b\nb,c\nc,a\n", r"tree.csv:2: 'a' lies above itself \(a < b < c < a\); break the circle"),
        ("a,a\n", r"'a' lies above itself \(a < a\)"),
        ("cat,animal\n", r"tree.csv:2: parent 'animal' has no line of its own; add one"),
        ("a,\na,\n", r"tree.csv:3: label 'a' stands in line 2 too"),
        ("a\n", r"tree.csv:2: a line is a label and its parent"),
    ],
    ids=["circle", "itself", "orphan", "twice", "cells"],
)
def test_files_that_are_no_hierarchy_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_hierarchy(write(tmp_path / "tree.csv", text))


def test_files_without_a_header_or_missing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tree.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="its first line must be label,parent; found a,b"):
        read_hierarchy(tmp_path / "tree.csv")
    with pytest.raises(DataError, match="no such file; a hierarchy is a CSV file"):
        read_hierarchy(tmp_path / "other.csv")


def test_parents_are_as_probable_as_their_children() -> None:
    assert coherent(np.array([[0.1, 0.3, 0.8, 0.5]]), ABOVE).tolist() == [[0.8, 0.8, 0.8, 0.5]]
    same = np.array([[0.9, 0.5, 0.2, 0.5]])
    assert coherent(same, ABOVE).tolist() == same.tolist()
    assert coherent(same, ()) is same


def test_no_child_without_its_parents() -> None:
    chosen = np.array([[True, False, True, True], [True, True, True, False]])
    assert consistent(chosen, ABOVE).tolist() == [[True, False, False, True], [True, True, True, False]]
    assert upwards(np.array([[False, False, True, False]]), ABOVE).tolist() == [[True, True, True, False]]


@pytest.mark.parametrize("rule", [{"thresholds": np.array([0.9, 0.2, 0.2, 0.5])}, {"top": 2}, {"at_least_one": True}])
def test_every_rule_decides_consistently(rule: dict[str, object]) -> None:
    probs = np.random.default_rng(0).random((200, 4))
    made = Rule(above=ABOVE, **rule)  # type: ignore[arg-type]
    chosen = made(probs, multi=True)
    assert (consistent(chosen, ABOVE) == chosen).all()
    assert chosen.any()
    if made.at_least_one:
        assert chosen.any(axis=1).all()
    assert (Rule.of(made.to_dict())(probs, multi=True) == chosen).all()


def test_an_estimator_learns_the_levels_above_and_keeps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    leaves = {"fruit/pome": ("apple", "pear"), "fruit/stone": ("plum", "peach"), "tool/hand": ("saw", "rasp")}
    texts, labels = [], []
    for _ in range(300):
        leaf = list(leaves)[rng.integers(3)]
        texts.append(" ".join(rng.choice(leaves[leaf], 3)))
        labels.append([leaf])
    model = LinearClassifier(hierarchy="/", min_count=1, regularisation=(3.0,)).fit(texts, labels)
    assert model.classes_.tolist() == ["fruit", "fruit/pome", "fruit/stone", "tool", "tool/hand"]
    chosen = model.predict(["apple pear", "plum plum", "saw"])
    assert chosen.tolist() == [[1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    probs = model.predict_proba(["apple plum", "rasp"])
    assert (probs[:, 0] >= probs[:, 1:3].max(axis=1)).all()
    model.save(tmp_path / "run")
    again = load(tmp_path / "run")
    assert again.hierarchy == "/"
    assert (again.predict(texts) == model.predict(texts)).all()
    assert (again.predict_proba(texts) == model.predict_proba(texts)).all()


def test_an_estimator_with_a_hierarchy_wants_lists_of_names() -> None:
    with pytest.raises(DataError, match="hierarchy: give each text's labels as a list of names"):
        LinearClassifier(hierarchy="/").fit(["a", "b"], ["x/y", "z"])


def test_the_most_probable_labels_are_parents_before_children() -> None:
    rule = Rule(top=1, above=((1,), (), ()))  # column 0 lies below column 1
    assert rule(np.array([[0.9, 0.9, 0.2]]), multi=True).tolist() == [[False, True, False]]


def test_recall_that_is_promised_is_not_lost_to_parents() -> None:
    rng = np.random.default_rng(0)
    above = ((), (0,))
    child = rng.random(2000) < 0.3
    y = np.column_stack([child | (rng.random(2000) < 0.2), child])
    probs = coherent(np.clip(y * 0.4 + rng.random((2000, 2)) * 0.6, 0, 1), above)
    limits, _ = fit_thresholds(probs, y, objective="recall", wanted=0.9, above=above)
    chosen = Rule(thresholds=limits, above=above)(probs, multi=True)
    assert (chosen & y).sum(axis=0)[1] / y.sum(axis=0)[1] >= 0.9


def test_separators_that_cannot_be() -> None:
    with pytest.raises(DataError, match="hierarchy '': name what stands between"):
        by_separator(["A/B"], "")
    with pytest.raises(DataError, match="has blanks around its '/'; name them too: --hierarchy ' / '"):
        by_separator(["A / B"], "/")


def test_a_root_of_all_labels_makes_no_wrong_answer_half_right() -> None:
    space = LabelSpace(("all/a", "all/b"))
    metric = problem_metrics(space, np.array([20, 20]), 40, by_separator(space.names, "/"))[-1]
    assert metric(np.array([0, 0]), np.eye(2)[[1, 1]]) == 0


def test_another_tree_is_another_problem() -> None:
    data = Dataset(["0", "1"], ["a", "b"], np.array([0, 1]), LabelSpace(("x/a", "y/b")))
    one = Splits(data, data, data, "given", hierarchy=by_separator(data.labels.names, "/"))
    assert data_digest(one) != data_digest(Splits(data, data, data, "given"))
