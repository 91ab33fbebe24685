"""Whatever is wrong with what a user gives: one sentence that says what, where and what to do; exit 2; nothing written."""

from __future__ import annotations

import json
import re
import resource
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

HEADER = "text,label\n"
GOOD = HEADER + "".join(f"the {word} number {i},{word}\n" for i in range(10) for word in ("goal", "price"))
LINEAR = ("--method", "linear", "--out", "out")
Refused = Callable[..., str]


def train(refused: Refused, content: str | bytes, *options: object, name: str = "rows.csv") -> str:
    """The sentence about a file of this content, without its path."""
    data = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(data)
    return refused("train", name, *LINEAR, *options)


# Files


def test_missing_file_offers_what_is_there(refused: Refused) -> None:
    Path("reviews.csv").write_text(GOOD)
    assert refused("train", "review.csv", *LINEAR) == "review.csv: no such file; did you mean reviews.csv?"


def test_missing_folder(refused: Refused) -> None:
    assert refused("train", "no/rows.csv", *LINEAR) == "no/rows.csv: no such file, and no folder no; check the path"


def test_folder_instead_of_a_file(refused: Refused) -> None:
    Path("data").mkdir()
    Path("data/rows.csv").write_text(GOOD)
    assert refused("train", "data", *LINEAR) == "data: is a folder; name a file inside it, such as rows.csv"


def test_unknown_ending(refused: Refused) -> None:
    assert "files ending in '.xlsx' cannot be read; use one of .csv, .tsv, .jsonl" in train(
        refused, "a", name="rows.xlsx"
    )


def test_empty_file(refused: Refused) -> None:
    assert train(refused, "") == "rows.csv: the file is empty; it needs a header and rows"


def test_header_only(refused: Refused) -> None:
    wanted = "rows.csv: there are no rows, only column names; check that the file is complete"
    assert train(refused, HEADER) == wanted


def test_missing_column_offers_near_names(refused: Refused) -> None:
    assert (
        train(refused, GOOD, "--label", "lable")
        == "rows.csv: no column 'lable'; did you mean 'label'? there are: text, label; name the label column: --label label"
    )


def test_missing_column_in_a_file_of_its_own(refused: Refused) -> None:
    Path("test.csv").write_text("txet,label\na,goal\n")
    said = train(refused, GOOD, "--test", "test.csv")
    assert said == (
        "test.csv: no column 'text'; did you mean 'txet'? there are: txet, label; name the text column: --text txet"
    )


def test_column_whose_name_holds_a_comma(refused: Refused, command: Callable[..., Any]) -> None:
    content = 'id,"first, last",label\n' + "".join(
        f"{i},the {w} {i},{w}\n" for i in range(9) for w in ("goal", "price")
    )
    said = train(refused, content, "--text", "first, last")
    assert said == (
        "rows.csv: no column 'first'; did you mean 'first, last'? there are: id, \"first, last\", label; "
        "name the text column: --text '\"first, last\"'"
    )
    done = command("train", "rows.csv", *LINEAR, "--text", '"first, last"')
    assert done.code == 0, done.err


@pytest.mark.parametrize("verb", [("train", *LINEAR), ("compare", "--methods", "linear", "--out", "out")])
def test_share_of_a_part_that_has_a_file(refused: Refused, verb: tuple[str, ...]) -> None:
    Path("other.csv").write_text(GOOD)
    Path("rows.csv").write_text(GOOD)
    for option in (("--valid-share", "0.1"), ("--set", "data.valid_share=0.1")):
        said = refused(verb[0], "rows.csv", *verb[1:], "--valid", "other.csv", *option)
        assert said == "data.valid_share: has no effect, since other.csv holds the valid rows; leave it out"


def test_ragged_line(refused: Refused) -> None:
    said = train(refused, GOOD + "one, two,goal\n")
    assert said == "rows.csv:22: 3 fields, expected 2; put quotes around a field that holds a comma"


def test_quote_that_is_never_closed(refused: Refused) -> None:
    assert train(refused, HEADER + 'a,goal\n"b,price\nc,goal\n').startswith("rows.csv:3: unexpected end of data; ")


def test_nul_bytes(refused: Refused) -> None:
    said = train(refused, GOOD + "a\0b,goal\n")
    assert said == (
        "rows.csv:22: a NUL byte, so the file is damaged or not text; if it is UTF-16, name it: --encoding utf-16-le"
    )


def test_wrong_encoding_names_the_byte(refused: Refused) -> None:
    said = train(refused, (HEADER + "caf\u00e9,goal\n").encode("latin-1"))
    assert said == (
        "rows.csv: byte 0xe9 at offset 14 is not UTF-8; if the file is in another encoding, name it: --encoding cp1252"
    )


def test_unknown_encoding(refused: Refused) -> None:
    said = train(refused, GOOD, "--encoding", "utf-9")
    assert said == "rows.csv: 'utf-9' is not an encoding that Python knows; try utf-8, cp1252 or utf-16"


def test_broken_json_line(refused: Refused) -> None:
    said = train(refused, '{"text": "a", "label": "x"}\n{"text": \n', name="rows.jsonl")
    assert (
        said
        == "rows.jsonl:2: not JSON (Expecting value at column 9); each line is one object, or the file one list of them"
    )


def test_parquet_cut_short(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b"] * 50, "label": ["x", "y"] * 50}), path)
    said = train(refused, path.read_bytes()[:-40], name="rows.parquet")
    assert said.startswith("rows.parquet: not a Parquet file, or truncated (")
    assert said.endswith("; write or copy it again")


# Rows


def test_single_class(refused: Refused) -> None:
    said = train(refused, HEADER + "".join(f"text {i},goal\n" for i in range(20)))
    assert said == "the 14 rows of train hold only label 'goal'; two labels or more are needed"


def test_class_with_one_row(refused: Refused) -> None:
    said = train(refused, GOOD + "alone,bond\n")
    assert said == "1 label has one row only: 'bond'; add rows, merge it into another label, or remove it"


def test_empty_texts(refused: Refused) -> None:
    said = train(refused, GOOD + ",goal\n  ,price\n")
    assert (
        said
        == "rows.csv: 2 rows have an empty text, id '20', '21', counted from 0; fill them in, or drop them with --drop-empty"
    )


def test_thresholds_on_test_rows(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(GOOD, encoding="utf-8")
    (tmp_path / "other.csv").write_text("text,label\nanother one,x\nand a second,y\n", encoding="utf-8")
    said = refused("train", "rows.csv", "--valid", "other.csv", "--test", "other.csv", *LINEAR)
    assert said.startswith(
        "the texts of all 2 test rows are in valid too, which the model is selected on, so test scores"
    )


def test_missing_labels(refused: Refused) -> None:
    said = train(refused, GOOD + "a,\nb,\n")
    told = "2 rows have nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    assert said == f"rows.csv: lines 22, 23: {told}"


def test_nan_labels_in_parquet(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"], "label": [1.0, float("nan"), 2.0]}), path)
    said = refused("train", "rows.parquet", *LINEAR)
    told = "the row has nothing in column 'label'; fill it in or remove the row (--drop-empty)"
    assert said == f"rows.parquet: row 1: {told}"


def test_label_that_only_test_has(refused: Refused) -> None:
    Path("test.csv").write_text(HEADER + "a,goal\nb,golf\nc,golf\n")
    said = train(refused, GOOD, "--test", "test.csv")
    assert (
        said == "1 label is in test but not in train: 'golf' (2 rows); add such rows to train or remove them from test"
    )


def test_duplicate_ids(refused: Refused) -> None:
    content = "id,text,label\n" + "".join(f"{i % 9},text {i},{i % 2}\n" for i in range(10))
    said = train(refused, content, "--id", "id")
    assert said == "rows.csv: id '0' occurs 2 times; make ids unique, or name no id column"


def test_the_same_ids_in_two_files(refused: Refused) -> None:
    content = "id,text,label\n" + "".join(f"{i},text {i},{i % 2}\n" for i in range(10))
    Path("test.csv").write_text("id,text,label\n3,a,0\n")
    said = train(refused, content, "--id", "id", "--test", "test.csv")
    assert said == "id '3' is in train and in test; ids must differ across the parts"


def test_indicator_that_is_no_indicator(refused: Refused) -> None:
    said = train(refused, "text,a,b\nx,1,0\ny,0,2\n", "--label", "a,b")
    assert said == "rows.csv:3: label column 'b' holds '2'; write 0 or 1 in each of its cells"


def test_unknown_part_in_a_split_column(refused: Refused) -> None:
    content = "text,label,part\n" + "".join(f"text {i},{i % 2},{'tset' if i == 9 else 'train'}\n" for i in range(10))
    said = train(refused, content, "--split", "part")
    assert said == (
        "rows.csv: split 'tset' (1 row) is none of train, validation, valid, dev, val, test; rename it or remove the rows"
    )


# Where to write


@pytest.mark.parametrize("verb", ["train", "demo"])
def test_folder_that_exists_is_kept(refused: Refused, verb: str) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    Path("rows.csv").write_text(GOOD)
    said = refused(verb, *(["rows.csv", *LINEAR] if verb == "train" else ["--out", "out"]))
    assert said == "out exists; name another folder with --out, or delete it first"
    assert Path("out/mine.txt").read_text() == "mine"


def test_folder_below_a_file(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    said = refused("train", "rows.csv", "--method", "linear", "--out", "rows.csv/out")
    assert said.endswith("rows.csv is not a folder; name another with --out")


def test_full_disk_leaves_nothing(process: Callable[..., Any], tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: writing past it fails in the same way, with another reason."""
    (tmp_path / "rows.csv").write_text(GOOD)
    limit = 2000  # bytes, less than the weights of any run
    done = process(
        "train",
        "rows.csv",
        *LINEAR,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    *_, sentence = done.stderr.decode().splitlines()
    assert done.returncode == 2, done.stderr.decode()
    assert sentence.startswith("lasttoken: out could not be written (")
    assert "; nothing was kept of it; make room" in sentence
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_report_into_a_missing_folder(refused: Refused, runs: dict[str, Path]) -> None:
    assert "no/report.html" in refused("report", runs["linear"], "-o", "no/report.html")


# Models


def test_unknown_model_says_what_was_searched(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    said = refused("train", "rows.csv", "--method", "embedding", "--model", "nobody/nothing", "--out", "out")
    assert said.startswith("model 'nobody/nothing' not found: searched the folder ./nobody/nothing, the cache ")
    assert "huggingface.co was not asked (HF_HUB_OFFLINE is set)" in said
    assert "to work offline: `hf download NAME --local-dir DIR`" in said


def test_folder_without_a_model(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    Path("model").mkdir()
    said = refused("train", "rows.csv", "--method", "probe", "--model", "model", "--out", "out")
    assert said.startswith("model 'model': the folder model holds no model that transformers can read (")


def test_encoder_where_a_decoder_is_needed(refused: Refused, folder: Callable[..., Path]) -> None:
    Path("rows.csv").write_text(GOOD)
    bert = str(folder("bert"))
    said = refused("train", "rows.csv", "--method", "embedding", "--model", bert, "--device", "cpu", "--out", "out")
    assert said == f"model {bert!r} is an encoder (its tokens see both ways); use --method encoder"


def test_decoder_where_an_encoder_is_needed(refused: Refused, folder: Callable[..., Path]) -> None:
    Path("rows.csv").write_text(GOOD)
    llama = str(folder("llama"))
    said = refused("train", "rows.csv", "--method", "encoder", "--model", llama, "--device", "cpu", "--out", "out")
    assert said == f"model {llama!r} is a causal language model, not an encoder; use --method embedding"


def test_texts_longer_than_the_window_are_counted(
    command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    long = HEADER + "".join(f"{'song ' * (300 if i < 4 else 3)},{'ab'[i % 2]}\n" for i in range(40))
    (tmp_path / "rows.csv").write_text(long)
    options = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--set", "method.train.epochs=1")
    said = command("train", tmp_path / "rows.csv", *options, "--out", tmp_path / "out")
    assert said.code == 0, said.err
    notes = json.loads((tmp_path / "out/metrics.json").read_text())["notes"]
    told = {note.split(":")[0]: note for note in notes if "truncated" in note}
    rows = pq.read_table(tmp_path / "out/splits.parquet").to_pylist()  # as the run itself recorded the split
    for part, size in (("train", 28), ("test", 8)):
        count = sum(int(row["id"]) < 4 for row in rows if row["split"] == part)
        if count == 0:
            assert part not in told
            continue
        assert told[part].startswith(f"{part}: {count} of {size} rows were truncated at 256 tokens: ")
        assert told[part].endswith(" of the longest row")
        assert told[part] in said.err
    assert "train" in told
    said = command(
        "predict", tmp_path / "out", tmp_path / "rows.csv", "-o", tmp_path / "labelled.csv", "--device", "cpu"
    )
    assert said.code == 0, said.err
    assert "4 of 40 rows were truncated at 256 tokens: " in said.err


# Settings


def test_unknown_setting_offers_the_nearest(refused: Refused) -> None:
    said = train(refused, GOOD, "--set", "method.min_cuont=3")
    assert said == "method.min_cuont: no such setting; did you mean 'method.min_count'?"


def test_a_setting_that_only_other_methods_have_is_not_offered(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    said = refused("train", "rows.csv", "--method", "linear", "--set", "lr=2")
    assert said.startswith("lr: no such setting; known are ")
    assert "train.lr" not in said
    assert refused("train", "rows.csv", "--method", "embedding", "--set", "lr=2") == (
        "lr: no such setting; did you mean 'method.train.lr'?"
    )
    words = ("compare", "rows.csv", "--methods", "linear,probe", "--set")
    assert refused(*words, "linear.min_cont=3") == "linear.min_cont: no such setting; did you mean 'linear.min_count'?"


def test_every_problem_of_a_config_at_once(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    wrong = ("method.lora.r=-1", "method.train.lr=0", "method.pooling=first", "method.train.epoch=3")
    options = [word for setting in wrong for word in ("--set", setting)]
    lines = refused("train", "rows.csv", "--method", "embedding", "--out", "out", *options).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == [
        "method.lora.r",
        "method.pooling",
        "method.train.epoch",
        "method.train.lr",
    ]
    assert "method.train.epoch: no such setting; did you mean 'method.train.epochs'?" in lines
    assert "method.lora.r: input should be greater than or equal to 0, got -1" in lines


@pytest.mark.parametrize(
    ("setting", "named"),
    [("method.min_count", "write it as name=value"), ("data.text.x=1", "data.text"), ("seed.x=1", "seed")],
)
def test_setting_that_is_none(refused: Refused, setting: str, named: str) -> None:
    assert named in train(refused, GOOD, "--set", setting, "--seed", 1)


def test_unknown_method(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    known = "embedding, instruction, encoder, probe, linear"
    wanted = f"--method: 'embeding' is not among {known}; did you mean 'embedding'?"
    assert refused("train", "rows.csv", "--method", "embeding", "--out", "out") == wanted


@pytest.mark.parametrize("verb", ["compare", "demo"])
def test_unknown_method_among_several(refused: Refused, verb: str) -> None:
    Path("rows.csv").write_text(GOOD)
    source = ["rows.csv"] if verb == "compare" else []
    said = refused(verb, *source, "--methods", "linear,prob", "--out", "out")
    assert "'prob' is not among embedding, instruction, encoder, probe, linear" in said


@pytest.mark.parametrize("verb", ["compare", "report"])
def test_unknown_metric(refused: Refused, runs: dict[str, Path], verb: str) -> None:
    Path("rows.csv").write_text(GOOD)
    given = ["rows.csv", "--methods", "linear"] if verb == "compare" else [runs["linear"], runs["probe"]]
    assert "'macro_f2'" in refused(verb, *given, "--metric", "macro_f2", "--out", "out")


def test_report_into_a_folder(refused: Refused, runs: dict[str, Path]) -> None:
    Path("dir").mkdir()
    said = refused("report", runs["linear"], "-o", "dir", "--overwrite")
    assert said == "dir: is a folder or a device; name a file, or - for standard output"


def test_comparison_replaces_a_report_and_nothing_else(refused: Refused) -> None:
    Path("rows.csv").write_text(GOOD)
    Path("out").mkdir()
    Path("out/report.html").write_text("<p>mine</p>")
    said = refused("compare", "rows.csv", "--methods", "linear", "--out", "out")
    assert said == "out/report.html exists and is no report; name another file with --out, or delete it first"
    assert Path("out/report.html").read_text() == "<p>mine</p>"


def test_compare_into_a_run(refused: Refused, runs: dict[str, Path]) -> None:
    Path("rows.csv").write_text(GOOD)
    said = refused("compare", "rows.csv", "--methods", "linear", "--out", runs["linear"])
    assert said == f"{runs['linear']} is a run itself; name a folder for several with --out"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "linear", "--model", "tiny"), "--model: linear has no model; embedding, instruction, "),
        (
            ("--method", "probe", "--zero-shot"),
            "--zero-shot: probe cannot predict without training; use --method instruction",
        ),
        (("--method", "embedding", "--set", "method.lora.targets=q_proj,v_proj"), "method.lora.targets: "),
    ],
)
def test_options_that_the_method_does_not_have(refused: Refused, words: Sequence[str], said: str) -> None:
    Path("rows.csv").write_text(GOOD)
    assert refused("train", "rows.csv", *words).startswith(said)


def test_unknown_metric_of_a_single_run(refused: Refused, runs: dict[str, Path]) -> None:
    assert "'macro_f2'" in refused("report", runs["linear"], "--metric", "macro_f2", "--out", "out.html")


def test_metric_that_cannot_decide_early_stopping(refused: Refused, folder: Callable[..., Path]) -> None:
    Path("rows.csv").write_text(GOOD)
    options = (
        "--method",
        "embedding",
        "--model",
        folder("llama"),
        "--device",
        "cpu",
        "--set",
        "method.train.metric=ece",
    )
    said = refused("train", "rows.csv", *options, "--out", "out")
    assert "train.metric: 'ece' cannot decide early stopping; known are micro_f1, macro_f1, weighted_f1" in said


# Divergence


def test_divergence_before_the_first_score(refused: Refused, folder: Callable[..., Path]) -> None:
    Path("rows.csv").write_text(GOOD)
    options = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu", "--out", "out")
    said = refused(
        "train",
        "rows.csv",
        *options,
        "--set",
        "method.train.lr=1e30",
        "--set",
        "method.train.warmup=0",
        "--set",
        "method.head_init=random",
    )
    assert said.startswith("update 2: loss ")
    assert said.endswith("; lower the learning rate")


def test_weights_that_predict_no_number_are_not_kept(refused: Refused, folder: Callable[..., Path]) -> None:
    """The first update, small as it is, breaks the weights, and validation is scored before the second one."""
    Path("rows.csv").write_text(GOOD)
    settings = ("method.train.lr=1e30", "method.train.warmup=0.9", "method.train.batch=14", "method.head_init=random")
    options = [word for setting in settings for word in ("--set", setting)]
    model = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu")
    said = refused("train", "rows.csv", *model, *options, "--out", "out")
    assert said.startswith("update 1: ")
    assert said.endswith("; lower the learning rate, or set --precision float32")


def test_divergence_after_a_score_keeps_the_best_weights(
    command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Three updates, one an epoch: warm-up makes the first one 334 times smaller than the second, which overflows."""
    (tmp_path / "rows.csv").write_text(GOOD)
    settings = (
        "method.train.lr=1e7",
        "method.train.warmup=0.333",
        "method.train.batch=14",
        "method.train.epochs=3",
        "method.head_init=random",
        "method.precision=float32",  # what overflows at this rate does so in float32; bfloat16 rounds otherwise
    )
    options = [word for setting in settings for word in ("--set", setting)]
    model = ("--method", "embedding", "--model", folder("llama"), "--device", "cpu")
    out = tmp_path / "out"
    said = command("train", tmp_path / "rows.csv", *model, *options, "--out", out)
    assert said.code == 2, said.err
    assert "training diverged at update " in said.err.splitlines()[-1]
    assert re.search(r"; the weights of update [12] are kept", said.err.splitlines()[-1])
    again = command("predict", out, tmp_path / "rows.csv", "--device", "cpu")
    assert again.code == 0, again.err
    assert len(again.out.splitlines()) == 21


# Runs


@pytest.fixture
def damaged(runs: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """damaged(method) -> a copy of a run, free to be damaged."""
    return lambda method: Path(shutil.copytree(runs[method], tmp_path / method))


VERBS: list[Sequence[object]] = [
    ("predict", "linear", "rows.csv", "-o", "labelled.csv"),
    ("report", "linear", "-o", "report.html"),
]


@pytest.mark.parametrize("verb", VERBS, ids=["predict", "report"])
def test_flipped_bit_is_named(refused: Refused, damaged: Callable[[str], Path], verb: Sequence[object]) -> None:
    Path("rows.csv").write_text(GOOD)
    path = damaged("linear") / "head.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    wanted = "linear/head.safetensors: damaged (its sha256 is not the one in manifest.json); restore it or fit again"
    assert refused(*verb) == wanted


@pytest.mark.parametrize("verb", VERBS, ids=["predict", "report"])
@pytest.mark.parametrize("name", ["vocabulary.json", "predictions/test.parquet", "manifest.json"])
def test_missing_file_of_a_run_is_named(
    refused: Refused, damaged: Callable[[str], Path], verb: Sequence[object], name: str
) -> None:
    Path("rows.csv").write_text(GOOD)
    (damaged("linear") / name).unlink()
    assert refused(*verb).startswith(f"linear/{name}: missing; ")


@pytest.mark.parametrize("verb", VERBS, ids=["predict", "report"])
def test_newer_format_is_named(refused: Refused, damaged: Callable[[str], Path], verb: Sequence[object]) -> None:
    Path("rows.csv").write_text(GOOD)
    path = damaged("linear") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert refused(*verb) == "linear: written in format 99, this version reads up to 2; update lasttoken"


@pytest.mark.parametrize("verb", VERBS, ids=["predict", "report"])
def test_no_such_run(refused: Refused, verb: Sequence[object]) -> None:
    Path("rows.csv").write_text(GOOD)
    assert refused(*verb) == "linear: no such run; `lasttoken train` makes one"


def test_base_model_that_has_changed(
    refused: Refused, command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    Path("rows.csv").write_text(GOOD)
    model = Path(shutil.copytree(folder("llama"), tmp_path / "model"))
    said = command("train", "rows.csv", "--method", "probe", "--model", model, "--device", "cpu", "--out", "out")
    assert said.code == 0, said.err
    study = ("compare", "rows.csv", "--methods", "probe", "--model", model, "--device", "cpu", "--out", "study")
    assert command(*study).code == 0
    path = model / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    said = refused("predict", "out", "rows.csv", "-o", "labelled.csv")
    assert said == (
        f"{model}: another model than the one that out was trained on, or it has changed since; restore it, name the folder "
        "that it is in (--model FOLDER), or fit again"
    )
    assert refused(*study) == "study/probe holds a run that differs in the base model; name another folder with --out"
    shutil.rmtree(model)
    assert refused("predict", "out", "rows.csv", "-o", "labelled.csv") == (
        f"the base model of out is not in {model}; give its folder: --model FOLDER, in Python load(run, model=FOLDER)"
    )


def test_base_model_that_has_moved(
    refused: Refused, command: Callable[..., Any], folder: Callable[..., Path], tmp_path: Path
) -> None:
    """As on another machine: what is said is the same, wherever the base model lies."""
    Path("rows.csv").write_text(GOOD)
    model = Path(shutil.copytree(folder("llama"), tmp_path / "model"))
    words = ("--method", "embedding", "--device", "cpu", "--set", "method.train.epochs=1")
    assert command("train", "rows.csv", "--model", model, "--out", "moved", *words).code == 0
    assert command("predict", "moved", "rows.csv", "-o", "before.csv", "--probs").code == 0
    moved = model.rename(tmp_path / "elsewhere")
    said = command("predict", "moved", "rows.csv", "-o", "after.csv", "--probs", "--model", moved)
    assert said.code == 0, said.err
    assert Path("after.csv").read_bytes() == Path("before.csv").read_bytes()
    assert command("train", "rows.csv", "--method", "linear", "--out", "plain").code == 0
    said = refused("predict", "plain", "rows.csv", "-o", "plain.csv", "--model", moved)
    assert said == "model: plain holds all of its linear model and needs no other; leave it out"


def test_report_on_runs_of_other_rows(
    refused: Refused, command: Callable[..., Any], runs: dict[str, Path], table: Path
) -> None:
    said = command("train", table, "--method", "linear", "--out", "other", "--seed", 5)
    assert said.code == 0, said.err
    assert "rows" in refused("report", "other", runs["linear"], "-o", "report.html")


def test_report_on_one_run_twice(refused: Refused, runs: dict[str, Path]) -> None:
    said = refused("report", runs["linear"], runs["linear"], "-o", "report.html")
    assert said.startswith("runs of one report need different names; repeated: [")
    assert "/linear'" in said


def test_predict_on_a_file_without_the_text_column(refused: Refused, runs: dict[str, Path]) -> None:
    Path("new.csv").write_text("texts,n\na,1\n")
    said = refused("predict", runs["linear"], "new.csv", "-o", "labelled.csv")
    assert said == (
        "new.csv: no column 'text'; did you mean 'texts'? there are: texts, n; name the text column: --text texts"
    )
    Path("new.csv").write_text("id,subject,the message\n1,a,b\n")
    said = refused("predict", runs["linear"], "new.csv")
    assert said.endswith("there are: id, subject, the message; name the text column: --text 'the message'")


def test_predict_keeps_a_file_that_exists(refused: Refused, runs: dict[str, Path]) -> None:
    Path("new.csv").write_text("text\na\n")
    Path("labelled.csv").write_text("mine")
    said = refused("predict", runs["linear"], "new.csv", "-o", "labelled.csv")
    assert said == "labelled.csv exists; name another file, or replace it with --overwrite"
    assert Path("labelled.csv").read_text() == "mine"


def test_columns_on_standard_input_need_a_format(refused: Refused, runs: dict[str, Path]) -> None:
    for header, name in ((b"id\ttext\n1\ta\n", "tsv"), (b"id, text \n1,a\n", "csv")):
        said = refused("predict", runs["linear"], "-", stdin=header)
        assert said == f"<stdin>: the first line is a header; give the format: --format {name}"


def test_one_thing_is_predicted(refused: Refused, runs: dict[str, Path]) -> None:
    wanted = "name one thing to label: a file, - for standard input, or a text with --text-is"
    assert refused("predict", runs["linear"]) == wanted
    assert refused("predict", runs["linear"], "new.csv", "--text-is", "a") == wanted
    said = refused("predict", runs["linear"], "--text-is", "a", "--empty", "blnk")
    assert said == "--empty: 'blnk' is not among blank, label, refuse; did you mean 'blank'?"
