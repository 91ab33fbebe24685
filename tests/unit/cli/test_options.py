"""From words on the command line to configs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lasttoken.cli.compare import chosen, method_configs
from lasttoken.cli.options import (
    command,
    data_option,
    data_words,
    default_folder,
    listed,
    naming_options,
    run_config,
    takes_data,
)
from lasttoken.config.methods import METHOD_CONFIGS
from lasttoken.config.settings import Data
from lasttoken.errors import ConfigError, DataError, MissingColumn

DATA = {"source": "rows.csv"}


def configure(method: str, *settings: str, model: str | None = None, quantize: str | None = None) -> Any:
    return run_config(method, DATA, model=model, quantize=quantize, seed=3, device="cpu", settings=list(settings))


def test_names_are_separated_by_commas() -> None:
    assert listed("title, body,,") == ("title", "body")
    assert listed('"first, last",body, " text"') == ("first, last", "body", " text")
    assert listed('"say ""hi""", 5" nails') == ('say "hi"', '5" nails')


@pytest.mark.parametrize("names", [("text",), ("first, last", "body"), (" text ", 'say "hi"'), ("5 o'clock",)])
def test_names_survive_being_told(names: tuple[str, ...]) -> None:
    words = data_words({"text": names, "drop_empty": True, "valid_share": 0.2})
    assert words == ["--text", words[1], "--drop-empty", "--valid-share", "0.2"]
    assert listed(words[1]) == names


def seen(*words: str, without: tuple[str, ...] = ()) -> Any:
    """The data settings that a verb gets from these words, or what is said against them."""
    found: dict[str, Any] = {}

    @takes_data(without=without)
    def verb(*, data: dict[str, Any]) -> None:
        found.update(data)

    app = typer.Typer(add_completion=False)
    app.command()(verb)
    said = CliRunner().invoke(app, list(words))
    return found if said.exit_code == 0 else said.output


def test_data_options_are_those_of_the_config() -> None:
    assert seen() == {}  # what is not given keeps its default
    assert seen("--text", "title,body", "--drop-empty", "--valid-share", "0.1", "--train-rows", "9") == {
        "text": ("title", "body"),
        "drop_empty": True,
        "valid_share": 0.1,
        "train_rows": 9,
    }
    every = {name: data_option(name).annotation.__metadata__[0] for name in Data.model_fields if name != "source"}
    for name, option in every.items():
        assert option.help.startswith(Data.model_fields[name].description)
        assert option.rich_help_panel == "Data"
    assert every["encoding"].help.endswith("[default: utf-8]")
    assert "No such option: --group" in seen("--group", "author", without=("group",))


def test_a_missing_column_names_the_option_and_what_to_write() -> None:
    with (
        pytest.raises(DataError, match=r"^no column 'body'; name the text column: --text 'title,the message'$"),
        naming_options({"text": ("title", "body")}),
    ):
        raise MissingColumn("no column 'body'", "body", ["id", "title", "the message"])
    with (
        pytest.raises(DataError, match=r"^no column 'topic'; name the group column: --group topics$"),
        naming_options({"group": "topic"}, ["text", "group"]),
    ):
        raise MissingColumn("no column 'topic'", "topic", ["topics", "text", "note"])
    for label, column in (("kind", "body"), ("topic", "COLUMN")):  # the last column may be the label
        with (
            pytest.raises(DataError, match=rf"^no column 'text'; name the text column: --text {column}$"),
            naming_options({"label": (label,)}, ["text", "label"]),
        ):
            raise MissingColumn("no column 'text'", "text", ["id", "body", "kind"])
    with pytest.raises(DataError, match=r"^no column 'id'$"), naming_options({}):
        raise MissingColumn("no column 'id'", "id", ["text"])  # no option of the verb names it


def test_suggested_commands_are_quoted() -> None:
    told = command("predict", Path("runs/all tickets-linear"), "NEW.csv")
    assert told == "lasttoken predict 'runs/all tickets-linear' NEW.csv"


@pytest.mark.parametrize(
    ("source", "what", "folder"),
    [
        ("data/reviews.csv", "embedding", "runs/reviews-embedding"),
        ("hub:fancyzhx/ag_news", "linear", "runs/ag_news-linear"),
        ("hub:owner/name:config", "linear", "runs/name-config-linear"),
        ("reviews.csv", "Qwen/Qwen3-0.6B-Base", "runs/reviews-Qwen3-0.6B-Base"),
        ("reviews.csv", "models/mine/", "runs/reviews-mine"),
    ],
)
def test_default_folder(source: str, what: str, folder: str) -> None:
    assert default_folder(source, what) == Path(folder)


def test_config_of_a_method() -> None:
    config = configure("embedding", "method.lora.r=4", "data.test_share=0.3", model="some/model", quantize="nf4")
    assert (config.seed, config.device, config.data.source, config.data.test_share) == (3, "cpu", "rows.csv", 0.3)
    assert (config.method.model, config.method.quantize, config.method.lora.r) == ("some/model", "nf4", 4)


def test_value_is_toml_or_a_string() -> None:
    config = configure("embedding", 'method.lora.targets=["q_proj"]', "method.pooling=mean", "method.lora.dora=true")
    assert config.method.lora.targets == ("q_proj",)
    assert config.method.pooling == "mean"
    assert config.method.lora.dora is True


@pytest.mark.parametrize(
    ("method", "setting", "kept"),
    [
        ("encoder", "method.train.epochs=1", ("train.lr", 5e-5)),
        ("encoder", "method.train.epochs=1", ("train.batch", 16)),
        ("instruction", "method.train.epochs=1", ("train.schedule", "cosine")),
        ("instruction", "method.lora.dropout=0", ("lora.r", 64)),
    ],
)
def test_one_setting_leaves_the_methods_other_defaults(method: str, setting: str, kept: tuple[str, Any]) -> None:
    value: Any = configure(method, setting).method
    for part in kept[0].split("."):
        value = getattr(value, part)
    assert value == kept[1]


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        (
            "linear",
            {"model": "some/model"},
            "--model: linear has no model; embedding, instruction, encoder, probe have",
        ),
        ("encoder", {"quantize": "nf4"}, "--quantize: encoder has no quantize; embedding, instruction, probe have"),
    ],
)
def test_an_option_that_the_method_would_ignore_is_refused(method: str, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        configure(method, **options)


def test_all_methods_run_unless_some_are_named_the_quickest_first() -> None:
    assert chosen(None) == ("linear", "probe", "encoder", "embedding", "instruction")
    assert set(chosen(None)) == set(METHOD_CONFIGS)
    assert chosen("probe,linear") == ("linear", "probe")
    with pytest.raises(ConfigError, match="--methods: no method is named; choose from linear, probe"):
        chosen(" ,")


def test_unknown_method() -> None:
    with pytest.raises(
        ConfigError, match="--method: 'bert' is not among embedding, instruction, encoder, probe, linear"
    ):
        configure("bert")


def test_settings_are_given_to_all_or_to_one() -> None:
    configs: Any = method_configs(
        ("embedding", "linear", "encoder"),
        DATA,
        model="some/model",
        encoder="some/encoder",
        quantize="nf4",
        seed=0,
        device="cpu",
        settings=["seed=9", "embedding.lora.r=4", "linear.min_count=5"],
    )
    assert [config.seed for config in configs.values()] == [9, 9, 9]
    assert configs["embedding"].method.lora.r == 4
    assert configs["linear"].method.min_count == 5
    assert (configs["embedding"].method.model, configs["encoder"].method.model) == ("some/model", "some/encoder")
    assert configs["embedding"].method.quantize == "nf4"


def test_zero_shot_is_instruction_without_training() -> None:
    settings = ["instruction.train.epochs=2", "zero-shot.max_length=64"]
    given: Any = {"model": "tiny", "encoder": None, "quantize": None, "seed": 0, "device": "cpu", "settings": settings}
    configs: Any = method_configs(("instruction", "zero-shot"), DATA, **given)
    assert list(configs) == ["instruction", "zero-shot"]
    trained, untrained = configs["instruction"].method, configs["zero-shot"].method
    assert (trained.train_model, trained.train.epochs, trained.max_length) == (True, 2, 1024)
    assert (untrained.train_model, untrained.max_length, untrained.model) == (False, 64, "tiny")
    with pytest.raises(ConfigError, match="instruction is not compared; add it to --methods"):
        method_configs(("zero-shot",), DATA, **given)


def test_quantize_among_several_methods() -> None:
    given: Any = {"model": "tiny", "encoder": None, "quantize": "nf4", "seed": 0, "device": "cpu", "settings": []}
    with pytest.raises(ConfigError, match=r"--methods: 'embeding' is not among .*; did you mean 'embedding'"):
        method_configs(("embeding", "linear"), DATA, **given)
    with pytest.raises(
        ConfigError, match="--quantize: linear, encoder has no quantize; embedding, instruction, probe have"
    ):
        method_configs(("linear", "encoder"), DATA, **given)


def test_a_precision_among_several_methods() -> None:
    given: Any = {"model": "tiny", "encoder": None, "quantize": None, "seed": 0, "device": "cpu", "settings": []}
    configs: Any = method_configs(("linear", "embedding"), DATA, **given, precision="float32")
    assert configs["embedding"].method.precision == "float32"
    given["model"] = None
    with pytest.raises(
        ConfigError, match=r"^--precision: linear has no precision; embedding, instruction, encoder, probe have$"
    ):
        method_configs(("linear",), DATA, **given, precision="float32")


def test_encoder_has_a_model_of_its_own() -> None:
    configs: Any = method_configs(
        ("encoder",), DATA, model=None, encoder=None, quantize=None, seed=0, device="cpu", settings=[]
    )
    assert configs["encoder"].method.model == "answerdotai/ModernBERT-base"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "some/model"}, "--model: none of linear, encoder takes a causal LM; leave it out"),
        (
            {"settings": ["embedding.lora.r=4"]},
            "--set embedding.lora.r=4: embedding is not compared; add it to --methods",
        ),
        ({"names": ("linear",), "encoder": "some/encoder"}, "--encoder: the encoder is not compared"),
    ],
)
def test_what_no_compared_method_would_use_is_refused(given: dict[str, Any], said: str) -> None:
    names = given.pop("names", ("linear", "encoder"))
    rest: Any = {"model": None, "encoder": None, "quantize": None, "seed": 0, "device": "cpu", "settings": []} | given
    with pytest.raises(ConfigError, match=said):
        method_configs(names, DATA, **rest)
