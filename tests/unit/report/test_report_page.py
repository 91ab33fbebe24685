import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from lasttoken.errors import UserError
from lasttoken.evaluation.calibration import Calibration
from lasttoken.evaluation.comparison import compare
from lasttoken.evaluation.decisions import NEVER, Rule
from lasttoken.evaluation.gaining import remarks
from lasttoken.evaluation.metrics import METRICS
from lasttoken.evaluation.policy import Policy
from lasttoken.evaluation.run_record import RunRecord, read_record
from lasttoken.labels import LabelSpace
from lasttoken.report.page import render, write_page
from lasttoken.report.tables import best_first, hardest, mistakes, most_confused

EVIL = '<script>alert("1")</script> & <img src=x onerror=alert(2)>'
SMALL = {
    "trainable_parameters": 81_936, "total_parameters": None, "train_seconds": 0.84, "train_rows_per_second": None,
    "predict_rows_per_second": 41_250.0, "peak_memory_bytes": 312_000_000, "peak_memory_kind": "resident",
    "peak_reserved_bytes": None, "model_bytes": 655_488,
}  # fmt: skip


class Seen(HTMLParser):
    """The elements of a page and its text; fails where tags do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for tag, attributes in self.elements if tag == "section"]


@pytest.fixture
def three(write_run) -> list[RunRecord]:
    """Two trained methods and a linear one, on the same 400 rows of 8 classes."""
    folders = [
        write_run("linear", skill=1.6, method="linear", model=None, cost=SMALL),
        write_run("embedding", skill=3.2, updates=100, notes=["12 of 400 rows were truncated at 512 tokens"]),
        write_run("instruction", skill=3.1, updates=50, method="instruction", invalid_answers=0.0125),
    ]
    return [read_record(folder) for folder in folders]


def compared(runs: list[RunRecord]) -> dict:
    return compare({run.name: run.predictions for run in runs}, draws=200).to_dict()


def test_three_methods_compared(three: list[RunRecord]) -> None:
    comparison = compared(three)
    page = Seen(render(three, comparison, title="Patents"))
    assert page.sections == [
        "methods", "pairs", "cost", "classes", "confusions", "calibration", "training", "risk", "mistakes",
        "data", "setup",
    ]  # fmt: skip
    assert comparison["summary"] in page.text
    for pair in comparison["pairs"]:
        assert pair["verdict"] in page.text
    assert "Measured on the 400 rows of the test split: 8 classes, one label a row. Intervals are at 95 %." in page.text
    for fact in [
        "12.2 M",
        "81.9 k",
        "4 min 10 s",
        "0.84 s",
        "83.1",
        "41,200",
        "1.42 GB",
        "312 MB",
        "48.8 MB",
        "655 kB",
    ]:
        assert fact in page.text
    assert "12 of 400 rows were truncated at 512 tokens" in page.text
    assert "1.2 % of answers named no label" in page.text
    assert "train 1,400 · valid 200 · test 400" in page.text
    assert "made here: 70/10/20 stratified by label, seed 0" in page.text
    assert 'method = "instruction"' in page.text
    assert "torch 2.9.1" in page.text


def test_every_headline_figure_carries_its_interval(three: list[RunRecord]) -> None:
    text = Seen(render(three, None, title="Patents")).text
    for run in three:
        found = run.test.metrics["macro_f1"]
        low, high = (f"{end:.3f}"[1:] for end in (found.low, found.high))
        assert f"{found.estimate:.3f}"[1:] + f" [{low}, {high}]" in text


def test_the_best_run_stands_first_and_is_marked(three: list[RunRecord]) -> None:
    html = render(three, None, title="Patents")
    assert [run.name for run in best_first(three, METRICS["macro_f1"])] == ["embedding", "instruction", "linear"]
    assert [run.name for run in best_first(three, METRICS["log_loss"])][-1] == "linear"  # there lower is better
    assert "embedding scores best" in html
    best = re.findall(r'<strong title="best of its column">(.*?)</strong>', html)
    assert f"{three[1].test.metrics['macro_f1'].estimate:.3f}"[1:] in best
    assert "81.9 k" in best
    assert "12.2 M" not in best


def test_a_single_run_without_anything_optional(write_run) -> None:
    folder = write_run("linear", method="linear", model=None, texts=None, cost=SMALL)
    (folder / "steps.jsonl").unlink()
    run = read_record(folder)
    page = Seen(render([run], None, title="One"))
    assert page.sections == ["methods", "classes", "confusions", "calibration", "risk", "mistakes", "data", "setup"]
    assert f"linear scores {run.test.metrics['macro_f1'].estimate:.3f}".replace("0.", ".") in page.text
    assert "best of its column" not in render([run], None, title="One")
    assert mistakes(run)[0].id in page.text


def test_the_only_script_that_may_run_is_the_one_that_sorts(write_run) -> None:
    html = render([read_record(write_run("linear"))], None, title="One")
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "</script" not in script
    assert 'class="wide sorts"' in html


def test_a_comparison_of_one_run(write_run) -> None:
    run = read_record(write_run("linear"))
    assert "pairs" not in Seen(render([run], compared([run]), title="One")).sections


def test_multi_label_runs_have_a_table_of_labels_instead_of_a_matrix(write_run) -> None:
    space = LabelSpace(("cold", "fast", "green", "old"), multi=True)
    runs = [read_record(write_run(name, labels=space, skill=s)) for name, s in (("embedding", 3.0), ("linear", 1.0))]
    html = render(runs, compared(runs), title="Several")
    page = Seen(html)
    assert 'class="matrix"' not in html
    assert "Labels one by one" in page.text
    assert "micro-F1" in page.text
    assert "any number of labels a row" in page.text
    one = runs[0].test.per_class[0]
    assert f"cold {one.support} {one.predicted} {one.precision:.2f}".replace(" 0.", " .") in page.text


def test_multi_label_mistakes_name_the_label_that_is_wrong(write_run) -> None:
    space = LabelSpace(("cold", "fast", "green", "old"), multi=True)
    run = read_record(write_run("linear", labels=space, skill=1.0))
    seen = run.predictions
    surest = np.where((seen.probs >= 0.5) != seen.targets, np.maximum(seen.probs, 1 - seen.probs), 0.0)
    row, column = np.unravel_index(surest.argmax(), surest.shape)
    first = mistakes(run)[0]
    assert first.id == seen.ids[row]
    assert first.probability == surest.max()
    assert first.predicted.removeprefix("not ") == space.names[column]
    assert first.predicted.startswith("not ") == bool(seen.targets[row, column])


def test_many_classes_show_the_ends_and_the_confused_pairs(write_run) -> None:
    space = LabelSpace(tuple(f"intent {i:02d}" for i in range(77)))
    runs = [
        read_record(write_run("embedding", labels=space, n=1500)),
        read_record(write_run("linear", labels=space, n=1500)),
    ]
    html = render(runs, None, title="Intents")
    page = Seen(html)
    assert "The 15 best and the 15 worst of 77 classes." in page.text
    assert "47 classes between" in page.text
    assert "All 77 classes" in page.text
    assert 'class="matrix"' not in html
    pairs = most_confused(runs[0])
    assert len(pairs) == 20
    assert [pair.count for pair in pairs] == sorted((pair.count for pair in pairs), reverse=True)
    rows = [i for i, j in enumerate(runs[0].predictions.targets) if space.names[j] == pairs[0].true]
    taken = runs[0].predictions.probs[rows].argmax(axis=1)
    assert pairs[0].count == int(np.sum(taken == space.names.index(pairs[0].predicted)))
    assert pairs[0].share == pairs[0].count / len(rows)


def test_the_matrix_holds_every_test_row(three: list[RunRecord]) -> None:
    html = render(three[:1], None, title="One")
    body = html[html.index('<table class="matrix">') :].split("</table>")[0]
    cells = re.findall(r'title="[^"]*">([\d·]+)</td>', body)
    assert len(cells) == 64
    assert sum(int(cell) for cell in cells if cell != "·") == 400


def test_mistakes_are_wrong_and_the_surest_first(three: list[RunRecord]) -> None:
    found = mistakes(three[0])
    assert len(found) == 10
    assert all(one.true != one.predicted for one in found)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)


def test_the_hardest_texts_come_first_in_the_mean_over_methods(three: list[RunRecord]) -> None:
    found = hardest(three)
    losses = [-np.log(run.predictions.probs[np.arange(400), run.predictions.targets]) for run in three]
    order = np.argsort(-np.mean(losses, axis=0))[:10]
    assert [one.id for one in found] == [f"row-{i}" for i in order]
    assert found[0].right == sum(run.predictions.chosen[order[0]] == run.predictions.targets[order[0]] for run in three)
    page = Seen(render(three, None, title="Patents")).text
    assert "Hardest texts" in page
    assert f"{found[0].right} of 3" in page


def test_what_was_cut_stands_beside_the_rest(write_run) -> None:
    told = "accuracy .500 [.3, .7] on the 30 truncated rows, 1.000 [.9, 1] on the others"
    runs = [read_record(write_run("cut", truncation={"told": told, "rows": 30})), read_record(write_run("whole"))]
    page = Seen(render(runs, None, title="Two"))
    assert f"cut {told}" in page.text
    assert "Truncated rows" in page.text
    assert "Truncated rows" not in Seen(render(runs[1:], None, title="One")).text


def test_every_measure_and_the_ends_of_the_labels_are_shown(write_run) -> None:
    labels = LabelSpace(tuple("abcde"), multi=True)
    run = read_record(write_run("one", labels=labels))
    page = Seen(render([run], None, title="One")).text
    for words in ("P@5", "R@5", "nDCG@5", "classwise ECE", "ECE, equal mass", "Brier score", "subset accuracy"):
        assert words in page
    assert "words a text median 15, 95th percentile 16, maximum 16 (test)" in page
    shares = run.predictions.targets.mean(axis=0)
    assert f"rarest {labels.names[shares.argmin()]}, {100 * shares.min():.1f} % of the test rows" in page


def test_texts_are_cut_at_300_characters(write_run) -> None:
    run = read_record(write_run("linear", texts=["x" * 299 + "yz and more", "short\n\ntext"]))
    shown = {one.text for one in mistakes(run, most=400)}
    assert shown == {"x" * 299 + "y …", "short text"}


def test_a_run_without_mistakes_says_so(write_run) -> None:
    run = read_record(write_run("oracle", skill=60.0))
    assert "None: every test row was decided rightly." in Seen(render([run], None, title="One")).text


def test_whatever_the_user_wrote_is_escaped(write_run) -> None:
    space = LabelSpace((EVIL, "b" + EVIL, "plain"))
    folder = write_run("a", labels=space, texts=[EVIL], notes=[EVIL], model=EVIL, updates=20, name=EVIL)
    environment = json.loads((folder / "env.json").read_text())
    environment["data"] |= {"source": EVIL, "origin": EVIL}
    environment |= {"device": EVIL, "git_commit": EVIL, "versions": {EVIL: EVIL}}
    (folder / "env.json").write_text(json.dumps(environment))
    (folder / "config.toml").write_text("title = '''" + EVIL + "'''")
    other = read_record(write_run("b", labels=space, texts=[EVIL], name="b" + EVIL, updates=20))
    runs = [read_record(folder), other]
    page = Seen(render(runs, compared(runs), title=EVIL))
    tags = {tag for tag, _ in page.elements}
    assert tags.isdisjoint({"img", "iframe", "object", "link"})
    assert [tag for tag, _ in page.elements].count("script") == 1  # our own, which sorts tables
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(" ".join(EVIL.split())) > 20


def test_nothing_is_loaded_from_elsewhere(three: list[RunRecord]) -> None:
    html = render(three, compared(three), title="Patents")
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    for _, attributes in Seen(html).elements:
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
    assert "default-src 'none'" in html


def test_every_link_has_its_target(three: list[RunRecord]) -> None:
    page = Seen(render(three, compared(three), title="Patents"))
    targets = [attributes["href"][1:] for tag, attributes in page.elements if tag == "a" and attributes["href"]]
    assert targets == page.sections


def test_runs_of_other_data_carry_a_warning(write_run) -> None:
    folders = [write_run("a"), write_run("b")]
    runs = [read_record(folder) for folder in folders]
    warning = "These runs were not trained on the same data"
    assert warning not in render(runs, None, title="Same")
    path = folders[1] / "env.json"
    path.write_text(path.read_text().replace("9f86d081", "00000000"))
    assert warning in render([runs[0], read_record(folders[1])], None, title="Other")


def test_a_metric_that_is_undefined_is_a_dash(write_run) -> None:
    folder = write_run("linear")
    content = json.loads((folder / "metrics.json").read_text())
    content["splits"]["test"]["metrics"]["macro_f1"] = {"estimate": None, "low": None, "high": None, "level": 0.95}
    del content["splits"]["test"]["metrics"]["ece"]
    content["splits"]["test"]["per_class"][0] |= {"f1": None, "auroc": None}
    (folder / "metrics.json").write_text(json.dumps(content))
    page = Seen(render([read_record(folder), read_record(write_run("other"))], None, title="Undefined"))
    assert "nan" not in page.text
    assert "–" in page.text


def test_the_page_names_metrics_without_an_interval(write_run) -> None:
    folder = write_run("linear")
    assert "no interval" not in Seen(render([read_record(folder)], None, title="All")).text
    content = json.loads((folder / "metrics.json").read_text())
    metrics = content["splits"]["test"]["metrics"]
    for name in ("log_loss", "ece"):
        metrics[name] |= {"low": None, "high": None}
    metrics["macro_f1"] = {
        "estimate": None,
        "low": None,
        "high": None,
        "level": 0.95,
    }  # undefined, not for want of rows
    (folder / "metrics.json").write_text(json.dumps(content))
    page = Seen(render([read_record(folder), read_record(write_run("other"))], None, title="Some")).text
    assert "Where a value has no interval (log-loss and ECE), too few test rows determine it." in page


def test_runs_that_cannot_share_a_page(write_run) -> None:
    single, multi = read_record(write_run("a")), read_record(write_run("b", labels=LabelSpace(("x", "y"), multi=True)))
    with pytest.raises(UserError, match="needs a run"):
        render([], None, title="None")
    with pytest.raises(UserError, match="single-label and multi-label runs cannot share a report"):
        render([single, multi], None, title="Mixed")
    with pytest.raises(UserError, match=r"need different names; repeated: \['a'\]"):
        render([single, single], None, title="Twice")


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    write_page("<p>é</p>", tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == b"<p>\xc3\xa9</p>"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_calibration_and_promises_are_shown(write_run) -> None:
    policy = Policy(Calibration("temperature", False, {"temperature": np.array(2.0)}))
    measured = {"low": 0.04, "high": 0.92, "level": 0.95}
    promises = {
        "answered": {"estimate": 0.8, **measured},
        "wrong": {"estimate": 0.05, **measured},
        "sets": {"promised": 0.9, "had": {"estimate": 0.912, **measured}, "size": 1.7},
    }
    page = Seen(render([read_record(write_run("one", policy=policy, promises=promises))], None, title="One"))
    assert re.search(r"calibration error \.\d{3}; \.\d{3} before \(temperature\)", page.text)
    told = "one answers 80.0 % [4.0 %, 92.0 %] of the rows, 5.0 % [4.0 %, 92.0 %] of the answers are wrong."
    assert told in page.text
    assert "one sets of 1.70 labels hold 91.2 % [4.0 %, 92.0 %] of the truth, 90.0 % guaranteed." in page.text
    plain = Seen(render([read_record(write_run("two"))], None, title="Two")).text
    assert ", not calibrated" in plain
    assert "of the answers" not in plain


def test_thresholds_stand_beside_their_labels(write_run) -> None:
    labels = LabelSpace(("a", "b", "c"), multi=True)
    policy = Policy(rule=Rule(thresholds=np.array([0.25, 0.125, NEVER])))
    text = Seen(render([read_record(write_run("several", labels=labels, policy=policy))], None, title="Several")).text
    assert ".250" in text
    assert ".125" in text
    assert "never" in text


def test_a_training_cut_short_or_still_gaining_is_told(write_run) -> None:
    told = "training stopped by Ctrl-C; the weights of update 8 are kept"
    folders = [
        write_run("gaining"),
        write_run("stopped", format=2, end={"how": "interrupted", "update": 8, "told": told}, guarantees={}),
    ]
    steps = [
        {"update": i + 1, "loss": 0.5, "rows": 1400, "valid": {"micro_f1": score}}
        for i, score in enumerate((0.5, 0.6, 0.8))
    ]
    (folders[0] / "steps.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    runs = [read_record(folder) for folder in folders]
    page = render(runs, None, title="two")
    gaining = (
        "gaining was still gaining at its end (validation micro-F1 .600 to .800 in the last epoch): "
        "more epochs may raise it"
    )
    assert f'<p class="warning">{gaining}.</p>' in page
    assert f'<p class="warning">stopped was interrupted: {told}.</p>' in page
    assert remarks([read_record(write_run("plain"))]) == []
