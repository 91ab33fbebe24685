"""Configs: defaults that stand, TOML there and back, and every problem told at once."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lasttoken.config.methods import METHOD_CONFIGS, Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.parse import differing, flat, names, override, parse, read_run, seconds_in, to_toml, toml_value
from lasttoken.config.run import Run
from lasttoken.config.settings import (
    Data,
    Decision,
    Ends,
    Long,
    Lora,
    Settings,
    Training,
    epochs_of,
    learning_rate,
    patience_of,
)
from lasttoken.errors import ConfigError

METHODS = [Embedding(), Instruction(), Encoder(), Probe(), Linear()]


def problems(values: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(Run, values)
    return caught.value.problems


def test_defaults_are_the_papers() -> None:
    assert (Embedding().lora.r, Embedding().train.batch, Embedding().train.schedule) == (8, 8, "linear")
    assert (Instruction().lora.r, Instruction().train.batch, Instruction().train.schedule) == (64, 8, "cosine")
    assert list(METHOD_CONFIGS) == ["embedding", "instruction", "encoder", "probe", "linear"]


@pytest.mark.parametrize(
    ("rows", "epochs"), [(1, 20.0), (100, 20.0), (200, 20.0), (600, 7.0), (1000, 4.0), (1334, 3.0), (10**6, 3.0)]
)
def test_epochs_give_500_updates_within_3_and_20_of_them(rows: int, epochs: float) -> None:
    assert epochs_of("auto", 8, rows) == epochs
    assert epochs_of(1.5, 8, rows) == 1.5


def test_patience_is_a_third_of_the_validations_at_least_two() -> None:
    assert [patience_of("auto", validations) for validations in (1, 3, 6.7, 20, 40)] == [2, 2, 2, 7, 13]
    assert patience_of(4, 3) == 4


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_toml_there_and_back(method: object, tmp_path: Path) -> None:
    run = Run(seed=5, method=method)
    path = tmp_path / "config.toml"
    path.write_text(to_toml(run), encoding="utf-8")
    assert read_run(path) == run


def test_every_default_is_written() -> None:
    written = to_toml(Run(method=Embedding()))
    assert 'pooling = "last"' in written
    assert "[method.train]" in written
    assert "revision" not in written  # None is left out


@pytest.mark.parametrize("kind", [Run, Data, Decision, *METHOD_CONFIGS.values(), Lora, Long, Ends, Training])
def test_every_setting_is_described(kind: type[Settings]) -> None:
    short = [name for name, field in kind.model_fields.items() if len((field.description or "").split()) < 2]
    assert short == []


def test_settings_that_differ_from_the_defaults_of_their_method() -> None:
    assert differing(Encoder()) == {}
    run = Run(seed=2, data=Data(text=("title", "body")), method=Linear(min_count=1))
    assert differing(run)["seed"] == 2
    assert differing(run)["data"] == {"text": ["title", "body"]}
    assert differing(run.method) == {"min_count": 1}
    # the model is always there: its default depends on what is installed
    assert differing(parse(Instruction, {"train": {"epochs": 2}})) == {"model": "tiny", "train": {"epochs": 2.0}}


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Run().seed = 3


def test_all_problems_at_once_with_their_place() -> None:
    found = problems(
        {"seed": -1, "method": {"method": "embedding", "pooling": "best", "lora": {"rank": 8}, "train": {"epochs": 0}}}
    )
    assert found == [
        "seed: input should be greater than or equal to 0, got -1",
        "method.lora.rank: no such setting; did you mean 'method.lora.r'?",
        "method.pooling: input should be 'last', 'mean', 'max' or 'attention', got 'best'",
        "method.train.epochs: input should be greater than 0 or 'auto', got 0",
    ]


def test_an_unknown_name_gets_the_nearest() -> None:
    assert problems({"data": {"lable": ["y"]}}) == ["data.lable: no such setting; did you mean 'data.label'?"]
    assert problems({"sede": 3}) == ["sede: no such setting; did you mean 'seed'?"]
    assert problems({"decison": {"top": 1}}) == ["decison: no such setting; did you mean 'decision'?"]
    assert problems({"method": {"method": "embedding", "lr": 1}}) == [
        "method.lr: no such setting; did you mean 'method.train.lr'?"
    ]


def test_a_hint_is_a_setting_of_the_method() -> None:
    (found,) = problems({"method": {"method": "linear", "lr": 1}})  # embedding's train.lr would be refused as well
    assert found.startswith("method.lr: no such setting; known are method.characters, ")
    assert "lora" not in found


def test_a_setting_of_two_types_names_both() -> None:
    wrong = {"method": "instruction", "verbalizer": "letters", "train": {"lr": "atuo"}}
    assert problems({"method": wrong}) == [
        "method.verbalizer: input should be a valid dictionary or 'numbers', got 'letters'",
        "method.train.lr: input should be a valid number, unable to parse string as a number or 'auto', got 'atuo'",
    ]


def test_a_table_for_a_number_is_refused() -> None:
    assert problems(
        {"decision": {"false_cost": {"A": 5}}, "method": {"method": "embedding", "lora": {"r": {"A": 5}}}}
    ) == [
        "decision.false_cost: input should be a valid number, got {'A': 5}",
        "method.lora.r: input should be a valid integer, got {'A': 5}",
    ]


def test_costs_name_the_labels_that_are_wrong() -> None:
    assert problems({"decision": {"costs": {"New York": {"a b": -1}}}}) == [
        "decision.costs.'New York'.'a b': input should be greater than or equal to 0, got -1"
    ]
    with pytest.raises(ConfigError, match='with "quotes" around names of several words'):
        override({}, ["decision.costs={New York={x=9}}"])
    one, other = ({"decision": {"costs": costs}} for costs in ({"a.b": {"c": 1}}, {"a": {"b.c": 1}}))
    assert dict(flat(one)).keys() != dict(flat(other)).keys()


def test_an_unknown_method_is_named() -> None:
    (found,) = problems({"method": {"method": "magic"}})
    assert found.startswith("method: input tag 'magic' found using 'method' does not match any of the expected tags")


def test_a_setting_of_another_method_is_refused() -> None:
    (found,) = problems({"method": {"method": "linear", "lora": {"r": 3}}})
    assert found.startswith("method.lora: linear has no such setting")


def test_names_are_dotted() -> None:
    assert names(Lora) == {"r", "alpha", "dropout", "targets", "rslora", "dora"}
    assert {"seed", "data.source", "method.lora.r", "method.train.lr", "method.words"} <= names(Run)


def test_learning_rate_falls_with_the_width_down_to_the_papers() -> None:
    assert learning_rate("auto", 2048) == pytest.approx(2e-4)
    assert learning_rate("auto", 8192) == pytest.approx(2e-4)
    assert learning_rate("auto", 512) == pytest.approx(8e-4)
    assert learning_rate(0.5, 512) == 0.5


def test_overrides() -> None:
    values = {"seed": 1, "method": {"method": "embedding", "lora": {"r": 8, "alpha": 2.0}}}
    found = override(values, ["seed=2", "method.lora.r = 16", "method.model=org/name", "data.text=['a', 'b']"])
    assert found == {
        "seed": 2,
        "method": {"method": "embedding", "lora": {"r": 16, "alpha": 2.0}, "model": "org/name"},
        "data": {"text": ["a", "b"]},
    }
    assert values == {"seed": 1, "method": {"method": "embedding", "lora": {"r": 8, "alpha": 2.0}}}


def test_an_override_needs_its_sign() -> None:
    with pytest.raises(
        ConfigError, match=r"^--set seed: write it as name=value, for instance --set method\.lora\.r=16\n--set x: "
    ):
        override({}, ["seed", "x"])


def test_an_override_below_a_plain_value_is_a_mistake_and_not_a_crash() -> None:
    with pytest.raises(ConfigError, match="seed"):
        override({"seed": 1}, ["seed.deep=2"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("1e-4", 1e-4), ("true", True), ('"x"', "x"), ("org/name", "org/name"), ("[1, 2]", [1, 2]), ("", "")],
)
def test_values_are_toml_or_words(text: str, value: object) -> None:
    assert toml_value(text) == value
    assert type(toml_value(text)) is type(value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: no such file$"):
        read_run(tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("seed = = 3")
    with pytest.raises(ConfigError, match=r"broken\.toml: not a TOML file \("):
        read_run(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"broken\.toml: not a TOML file \("):
        read_run(broken)


def test_a_folder_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        read_run(tmp_path)


def test_words_may_be_a_toml_list() -> None:
    run = parse(Run, {"method": {"method": "linear", "words": [1, 3]}, "data": {"text": ["title", "body"]}})
    assert run.method == Linear(words=(1, 3))
    assert run.data.text == ("title", "body")


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": "fast"},
        {"batch": 0},
        {"warmup": 1.0},
        {"weight_decay": -1},
        {"clip": float("nan")},
        {"epochs": float("inf")},
    ],
)
def test_numbers_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        parse(Training, wrong)


@pytest.mark.parametrize("wrong", [{"words": [2, 1]}, {"characters": [5, 3]}, {"characters": [0, 3]}])
def test_ngrams_go_from_few_to_many(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        parse(Linear, wrong)


def test_a_setting_of_another_method_is_said_to_be_one() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(Run, {"method": {"method": "linear", "lora": {"r": 2}}})
    assert str(caught.value) == (
        "method.lora: linear has no such setting; embedding and instruction have it (in compare: --set METHOD.NAME=VALUE)"
    )
    with pytest.raises(ConfigError, match=r"^train: no such setting; did you mean 'method.train.epochs'\?$"):
        parse(Run, {"train": {"epochs": 2}})


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"method": "embedding", "lora": {"targets": "q_proj,v_proj"}}, r"lora\.targets: .*\['q_proj','v_proj'\], on"),
        ({"method": "linear", "words": 1}, r"words: .*\[1,\.\.\.\]$"),
    ],
)
def test_a_list_that_was_not_written_as_one_is_shown(settings: dict[str, Any], shown: str) -> None:
    with pytest.raises(ConfigError, match=shown):
        parse(Run, {"method": settings})


def test_one_column_may_be_named_without_a_list() -> None:
    assert parse(Data, {"text": "body", "label": "stars"}) == Data(text=("body",), label=("stars",))


def test_several_columns_are_not_taken_for_one() -> None:
    with pytest.raises(ConfigError, match=r"^text: .* several are written as \['title','body'\]"):
        parse(Data, {"text": "title,body"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1H", 3600), (" 1h5s ", 3605)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert seconds_in(text, "--time") == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "m", "10 minutes", "-5m", "30m1h", "1.5h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        seconds_in(text, "--time")
    assert caught.value.problems == [f"--time: {text!r} is no duration; write it as 90s, 10m or 1h30m"]
