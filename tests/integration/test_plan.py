"""`lasttoken plan`: before a file, with one, where it does not fit, and as a guide shows it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

SHAPE = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000}


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the config of a model of some 200 M parameters, and nothing else: no weights, no tokenizer."""
    folder = tmp_path_factory.mktemp("bare") / "model"
    config = LlamaConfig(hidden_size=2048, num_hidden_layers=4, intermediate_size=8192, **SHAPE)
    config.save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return folder


def test_before_there_is_a_file(command: Callable[..., Any], bare: Path) -> None:
    words = ("plan", "--rows", 1000, "--tokens", 100, "--classes", 3, "--model", bare, "--gpu", "4090")
    said = command(*words, "--price", "0.5")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == f"{bare}, embedding, on RTX 4090 (24.0 GB)"
    assert [line.split("  ")[1] for line in lines if line.startswith("  ")] == [
        "parameters",
        "weights",
        "adapters and head",
        "gradients",
        "optimiser",
        "activations",
        "temporaries",
        "peak",
    ]
    assert "4,096 tokens, the fullest micro-batch" in said.out
    assert "data: 700 rows to train on, 70.0 k tokens an epoch (100 a row, as given)" in lines
    time, cost, verdict = lines[-3:]
    assert re.fullmatch(r"time: about .+, 6 epochs of .+ at most, assuming 57\.8 TFLOP/s, 35 % of the peak", time)
    assert re.fullmatch(r"cost: 0\.\d\d at 0\.5 an hour", cost)
    assert re.fullmatch(r"fits: \d\.\d+ GB of the 22\.8 GB that can be used", verdict)
    assert said.err.splitlines()[-1] == (f"next: lasttoken train DATA.csv --method embedding --model {bare}")


def test_with_a_file_the_tokens_are_those_of_training(
    command: Callable[..., Any], table: Path, runs: dict[str, Path], folder: Callable[..., Path]
) -> None:
    """The plan of a run that is there already: rows, tokens and parameters are the same numbers."""
    words = ("--model", folder("llama"), "--set", "method.max_length=48", "--set", "method.train.epochs=1", "--json")
    said = command("plan", table, *words)
    assert said.code == 0, said.err
    plan = json.loads(said.out)
    done = json.loads((runs["embedding"] / "metrics.json").read_text())
    assert plan["trainable"] == done["cost"]["trainable_parameters"]
    assert plan["parameters"] == done["cost"]["total_parameters"]
    assert plan["rows"] == json.loads((runs["embedding"] / "env.json").read_text())["data"]["rows"]["train"]
    assert plan["epoch_tokens"] <= 48 * plan["rows"]
    assert (plan["counted"], plan["fits"], plan["advice"]) == ("by the model's tokenizer", True, None)
    assert plan["peak"] == max(plan["phases"].values())


def test_where_it_does_not_fit_the_command_is_one_that_does(
    command: Callable[..., Any], bare: Path, table: Path
) -> None:
    options = ("--model", bare, "--gpu", "0.4GB", "--set", "method.train.epochs=2")
    said = command("plan", table, "--label", "label", *options)
    assert said.code == 0, said.err
    time, verdict = said.out.splitlines()[-2:]
    assert time == "time: not known, no card of the table has about 400 MB; name one (--gpu 4090)"
    assert re.fullmatch(
        r"does not fit: .+ of the 380 MB that can be used; with quantize=nf4 it does: 2\d\d MB", verdict
    )
    assert "(estimated, 4 bytes of text a token)" in said.out
    following = said.err.splitlines()[-1].removeprefix("next: lasttoken train ")
    assert following.endswith(f"--model {bare} --quantize nf4 --set method.train.epochs=2")
    again = command("plan", *shlex.split(following), "--gpu", "0.4GB")
    assert again.out.splitlines()[-1].startswith("fits: ")


def test_an_amount_of_memory_is_timed_on_the_fastest_and_the_slowest_card_that_has_it(
    command: Callable[..., Any], bare: Path
) -> None:
    asked = ("plan", "--rows", 5000, "--model", bare, "--gpu", "24GB", "--price", 3600)
    plan = json.loads(command(*asked, "--json").out)
    assert (plan["device"], plan["seconds"], plan["cost"]) == ("a card", None, None)
    assert list(plan["cards"]) == ["RTX 3090", "A10", "L4", "RTX 4090"]  # 71, 125, 121 and 165.2 TFLOP/s
    assert json.loads(command(*asked[:5], "--gpu", "24GiB", "--json").out)["cards"].keys() == plan["cards"].keys()
    slow, fast = plan["cards"]["RTX 3090"], plan["cards"]["RTX 4090"]
    named = json.loads(command(*asked[:5], "--gpu", "4090", "--json").out)
    assert 0 < fast == named["seconds"] < slow
    time, cost, _ = command(*asked).out.splitlines()[-3:]
    shown = (
        r"time: about \d\S* \S+( \d+ \S+)? \(RTX 4090\) to \d\S* \S+( \d+ \S+)? \(RTX 3090\), assuming 35 % of the peak"
    )
    assert re.fullmatch(shown, time), time
    assert cost == f"cost: {fast:.2f} to {slow:.2f} at 3600 an hour"


def test_checkpointing_is_an_option(command: Callable[..., Any], bare: Path) -> None:
    asked = ("plan", "--rows", 100, "--model", bare, "--gpu", "4090")
    assert not json.loads(command(*asked, "--json").out)["checkpointing"]
    plan = json.loads(command(*asked, "--checkpointing", "on", "--json").out)
    assert plan["checkpointing"]
    assert plan["command"].endswith("--method embedding --model " + str(bare) + " --checkpointing on")
    for wrong, told in (
        (("--checkpointing", "maybe"), "--checkpointing: 'maybe' is not among on, off, auto"),
        (("--checkpointing", "on", "--method", "probe"), "--checkpointing: probe trains no model; leave it out"),
        (
            ("--checkpointing", "on", "--set", "embedding.train.checkpointing=off"),
            "--checkpointing: --set gives method.train.checkpointing too; leave one of the two out",
        ),
    ):
        said = command(*asked, *wrong)
        assert (said.code, said.err) == (2, f"lasttoken: {told}\n")


def test_a_layer_that_is_not_there_is_refused_as_training_would(command: Callable[..., Any], bare: Path) -> None:
    said = command(
        "plan", "--rows", 100, "--model", bare, "--gpu", "4090", "--method", "probe", "--set", "method.layer=99"
    )
    assert (said.code, said.err.startswith("lasttoken: layer: 99 asked for, but ")) == (2, True)


def test_where_nothing_fits_a_card_is_named(command: Callable[..., Any], bare: Path) -> None:
    said = command("plan", "--rows", 100, "--model", bare, "--gpu", "100MB", "--json")
    plan = json.loads(said.out)
    assert not plan["fits"]
    assert plan["advice"]["settings"] == {}
    assert plan["advice"]["cards"] == ["RTX 4080"]


@pytest.mark.parametrize("method", ["instruction", "probe"])
def test_the_other_methods_on_this_machine(command: Callable[..., Any], table: Path, method: str) -> None:
    said = command("plan", table, "--method", method, "--set", "method.max_length=100")
    assert said.code == 0, said.err
    assert said.out.startswith(f"tiny, {method}, on cpu (")
    assert said.out.splitlines()[-1].startswith("fits: ")


def test_an_encoder_trains_all_of_itself(command: Callable[..., Any], folder: Callable[..., Path], table: Path) -> None:
    said = command("plan", "--data", table, "--method", "encoder", "--model", folder("bert"), "--json")
    plan = json.loads(said.out)
    assert plan["trainable"] == plan["parameters"]
    assert plan["parts"]["gradients"] == 4 * plan["trainable"]
    assert plan["parts"]["optimiser"] == 8 * plan["trainable"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "neither data nor --rows is given; name a file, or say how much there will be: --rows 10000 --tokens 200"),
        (("rows.csv", "--rows", 5), "both data and --rows are given; "),
        (
            ("rows.csv", "--data", "other.csv"),
            "data is named twice, as 'rows.csv' and as --data 'other.csv'; name it once",
        ),
        (("--rows", 5, "--gpu", "4900"), "--gpu: '4900' is not a known card; did you mean RTX 4090"),
        (
            ("--rows", 5, "--method", "linear"),
            "--method linear: it trains in seconds on a CPU; there is nothing to plan",
        ),
        (("--rows", 5, "--method", "embeding"), "--method: 'embeding' is not among "),
        (("--rows", 5, "--model", "nobody/nothing"), "model 'nobody/nothing' not found: searched "),
        (("--rows", 5, "--set", "method.trunk=6"), "trunk: 6 asked for, but tiny has 6 blocks; use 0 to 5"),
        (("--rows", 5, "--method", "instruction", "--set", "method.lora.r=0"), "lora.r: 0 leaves nothing to train"),
    ],
)
def test_mistakes(refused: Callable[..., str], words: tuple[object, ...], said: str) -> None:
    assert refused("plan", *words).startswith(said)


def test_neither_torch_nor_transformers_is_imported(bare: Path) -> None:
    """Which is what makes a plan quick: torch alone takes longer to import than a plan may take."""
    script = (
        "import sys; sys.argv = ['lasttoken', 'plan', '--rows', '100', '--method', sys.argv[1], '--model', sys.argv[2], "
        "'--gpu', '4090']\nfrom lasttoken.cli.main import app\ntry:\n    app()\nexcept SystemExit as end:\n"
        "    assert not end.code\nheavy = {'torch', 'transformers', 'sklearn', 'bitsandbytes'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    for method in ("embedding", "instruction", "probe"):
        done = subprocess.run([sys.executable, "-c", script, method, str(bare)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
