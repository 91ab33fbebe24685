from pathlib import Path

import pytest

from lasttoken.errors import ConfigError
from lasttoken.recipe import beside, read_recipe, recipe_names, runs_of

ROOT = Path(__file__).parent.parent.parent


def made(name: str, chosen: list[str] | None = None, **told: object) -> dict:
    options = {"model": None, "quantize": None, "seed": 0, "device": "cpu", "settings": [], **told}
    return runs_of(read_recipe(name), {"source": "rows.csv"}, chosen, **options)  # type: ignore[arg-type]


def test_every_recipe_of_the_package_is_whole() -> None:
    assert recipe_names() == ["paper/ag-news", "paper/single-label", "paper/wipo-alpha", "paper/wipo-sections"]
    for name in recipe_names():
        runs = made(name)
        assert len(runs) >= 5
        assert {run.method.method for run in runs.values()} == {
            "linear", "encoder", "probe", "embedding", "instruction",
        }  # fmt: skip


def test_the_settings_are_those_of_the_paper() -> None:
    runs = made("paper/ag-news")
    embedding, instruction = runs["embedding-r8"].method, runs["instruction"].method
    assert (embedding.quantize, embedding.lora.r, embedding.lora.targets) == ("nf4", 8, "all-linear")
    assert (embedding.train.epochs, embedding.train.lr, embedding.train.batch) == (20, 2e-4, 8)
    assert (embedding.train.optimizer, embedding.train.schedule) == ("adamw8bit", "linear")
    assert (instruction.lora.r, instruction.train.epochs, instruction.train.schedule) == (64, 5, "cosine")
    assert instruction.train.optimizer == "paged_adamw32bit"
    assert runs["embedding-r16"].method.lora.r == 16
    assert [runs[f"embedding-{kind}"].method.pooling for kind in ("mean", "max", "learned")] == [
        "mean",
        "max",
        "attention",
    ]
    assert runs["instruction-letters"].method.verbalizer["Sci/Tech"] == "D"
    assert runs["zero-shot"].method.train_model is False
    assert runs["probe-bidirectional"].method.bidirectional is True
    assert {run.method.model for name, run in runs.items() if name.startswith(("embedding", "instruction"))} == {
        "meta-llama/Llama-3.2-3B"
    }


def test_model_and_settings_reach_the_entries_they_are_for() -> None:
    runs = made("paper/ag-news", model="tiny", quantize="none", seed=3, settings=["zero-shot.max_length=99"])
    assert runs["bert"].method.model == "google-bert/bert-base-uncased"
    assert runs["embedding-r8"].method.model == "tiny"
    assert runs["embedding-r8"].method.quantize == "none"
    assert runs["zero-shot"].method.max_length == 99
    assert runs["instruction"].method.max_length == 1024
    assert {run.seed for run in runs.values()} == {3}
    assert list(made("paper/ag-news", ["bert", "linear"])) == ["linear", "bert"]


def test_a_recipe_without_data_asks_for_it() -> None:
    recipe = read_recipe("paper/wipo-alpha")
    options = {"model": None, "quantize": None, "seed": 0, "device": "cpu", "settings": []}
    with pytest.raises(
        ConfigError, match="name the file to run it on: lasttoken compare FILE --recipe paper/wipo-alpha"
    ):
        runs_of(recipe, {}, None, **options)  # type: ignore[arg-type]
    assert len(made("paper/wipo-alpha")["linear"].data.label) == 14


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("about = 1", "has no entries; write"),
        ("[entries.a]\nlike = 'a'", "'a' is like itself"),
        ("[entries.a]\nlike = 'b'", "'b' is not among the entries"),
        ("[entries.a]\nmethod = 'magic'", "a.method: 'magic' is not among"),
        ("[entries", "not a TOML file"),
        ("[entries]\nlinear = 'x'", "has no entries; write"),
        ("metrics = 'accuracy'\n[entries.a]\nmethod = 'linear'", "'metrics' is not among about, model, metric"),
        ("[entries.'a/b']\nmethod = 'linear'", "entry 'a/b' names a folder"),
    ],
)
def test_recipes_that_cannot_be_read(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "own.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_recipe(str(tmp_path / "own.toml"))


def test_a_name_that_is_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'paper/ag-news'"):
        read_recipe("paper/agnews")
    with pytest.raises(ConfigError, match="'embeding' is not among the entries linear, bert"):
        made("paper/ag-news", ["embeding"])


def test_the_guide_holds_the_table_of_every_recipe() -> None:
    guide = (ROOT / "docs" / "guides" / "reproduce.md").read_text(encoding="utf-8")
    for name in recipe_names():
        assert beside(read_recipe(name), {}) in guide


def test_scores_stand_beside_those_of_the_paper() -> None:
    table = beside(read_recipe("paper/wipo-alpha"), {"embedding-r8": ".790 [.770, .810]"})
    assert "| embedding-r8 | .785 | .790 [.770, .810] |" in table
    assert "| zero-shot | .17 |  |" in table
