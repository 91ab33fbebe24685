"""A head fitted alone before training: it is the probe's, it is where training begins, and it is kept where that is best."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny import dataset

from lasttoken.config.methods import Embedding, Encoder
from lasttoken.config.parse import parse
from lasttoken.config.settings import Lora, Training
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, Diverged
from lasttoken.fitting import warm_start
from lasttoken.fitting.warm_start import LEFT, HeadOnly, fit_heads, logits_of, solve, start_head
from lasttoken.infer.batches import pack
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import embedding, encoder
from lasttoken.model.backbone import Backbone
from lasttoken.model.pooling import Head
from lasttoken.text.tokenizer import encode
from lasttoken.train.distributed import ALONE
from lasttoken.train.loss import class_loss, label_loss, make_loss

STILL = Training(epochs=1.0, lr=1e-12, batch=8)  # an update moves no weight that float32 would show


def fit_best(*given: Any, **more: Any) -> HeadOnly:
    """The head of least validation loss."""
    return fit_heads(*given, **more)[0]


@pytest.mark.parametrize("multi", [False, True])
def test_the_solver_finds_the_regression_of_scikit_learn(multi: bool) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(200, 12)).astype(np.float32)
    scores = features @ rng.normal(size=(12, 3)) + rng.logistic(size=(200, 3))
    targets = scores > 1 if multi else scores.argmax(axis=1)
    strength = 0.5  # C of scikit-learn sums the loss over rows, here it is a mean (over labels too)
    penalty = 1 / (strength * 200 * (3 if multi else 1))
    loss = label_loss if multi else class_loss
    weight, bias = solve(
        torch.from_numpy(features), torch.from_numpy(targets), loss, penalty, torch.zeros(3, 12), torch.zeros(3)
    )
    logits = features @ weight.numpy().T + bias.numpy()
    plain = [LogisticRegression(C=strength, tol=1e-8).fit(features, y) for y in (targets.T if multi else [targets])]
    expected = (
        np.stack([m.decision_function(features) for m in plain], axis=1) if multi else plain[0].predict_proba(features)
    )
    found = logits if multi else np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 2e-3  # both stop when the gradient is small, not when it is zero


@pytest.mark.parametrize(
    ("multi", "name"),
    [
        (False, "cross_entropy"),
        (False, "logit_adjusted"),
        (True, "cross_entropy"),
        (True, "asymmetric"),
    ],
)
def test_no_small_step_from_the_head_lowers_the_loss(
    multi: bool, name: str, load_shared: Callable[..., Backbone]
) -> None:
    """At the start the loss's slope in the head is what the penalty towards 0 allows, and far below that of a random head."""
    backbone, rows = load_shared("llama"), dataset(60, multi=multi)
    encoded = encode(backbone.tokenizer, rows.texts, limit=64)
    loss = make_loss(name, rows.targets, 3, gamma=2.0, balanced=False, smoothing=0.0, device=torch.device("cpu"))
    torch.manual_seed(0)
    head, journal = Head(backbone.width, 3, pooling="mean"), Journal()
    batch = pack(encoded, np.arange(60), backbone)
    with torch.no_grad():
        hidden = backbone.hidden(batch.inputs, batch.layout)

    def value_and_slope() -> tuple[float, float]:
        total, count = loss(head(hidden, batch.layout.ends), torch.from_numpy(rows.targets))
        slope = torch.autograd.grad(total / count, head.linear.bias)[0]
        return total.item() / count, slope.norm().item()

    before = value_and_slope()
    start_head(head, backbone, ((encoded, rows), (encoded, rows)), loss, budget=512, world=ALONE, journal=journal)
    after = value_and_slope()
    assert after[0] < 0.5 * before[0]
    assert after[1] < 0.02 * before[1]  # biases are not pulled, so their slope is that of the loss alone
    assert journal.notes[-1].startswith(
        f"head: fitted alone on the frozen model, validation loss {after[0]:.4g} (L2 penalty "
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"trunk": 1},
        {"pooling": "attention"},
        {"max_length": 8, "long": {"keep": "windows", "overlap": 0.0}},
        {"max_length": 8, "long": {"keep": "windows", "overlap": 0.0, "combine": "attention"}},
    ],
    ids=["whole", "trunk", "attention", "windows", "attention over windows"],
)
def test_training_begins_where_the_probe_ends(settings: dict[str, Any], folder: Callable[..., Path]) -> None:
    """Without a step to speak of, the model answers texts made of a topic's own words, which a random head cannot."""
    rows = dataset(60)
    scores = {}
    for init in ("random", "probe"):
        values = {"model": str(folder("llama")), "pooling": "mean", "head_init": init, **settings}
        config = parse(Embedding, {**values, "lora": Lora(r=2), "train": STILL})
        journal = Journal()
        model = embedding.fit(config, rows, rows, seed=0, device="cpu", journal=journal).classifier
        scores[init] = (model.predict_proba(rows.texts).probs.argmax(axis=1) == rows.targets).mean()
        told = [note for note in journal.notes if note.startswith("before the first update: validation micro-F1")]
        assert len(told) == (init == "probe")
    assert scores["random"] < 0.7
    assert scores["probe"] > 0.9


def test_an_encoder_begins_there_too(folder: Callable[..., Path]) -> None:
    rows = dataset(60)
    config = Encoder(model=str(folder("modernbert")), head_init="probe", train=STILL)
    model = encoder.fit(config, rows, rows, seed=0, device="cpu", journal=Journal()).classifier
    assert (model.predict_proba(rows.texts).probs.argmax(axis=1) == rows.targets).mean() > 0.9


def test_training_that_only_harms_leaves_the_start(folder: Callable[..., Path]) -> None:
    rows, journal = dataset(60), Journal()
    train = Training(epochs=1.0, lr=30.0, batch=8, evaluations=4)
    config = Embedding(model=str(folder("llama")), pooling="mean", head_init="probe", lora=Lora(r=2), train=train)
    model = embedding.fit(config, rows, rows, seed=0, device="cpu", journal=journal).classifier
    assert (model.predict_proba(rows.texts).probs.argmax(axis=1) == rows.targets).mean() > 0.9
    assert any("before the first update" in note and "best validation" in note for note in journal.notes)


def test_a_head_that_finds_no_memory_begins_at_random_and_says_so(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(warm_start, "fit_heads", full)
    rows, journal = dataset(60), Journal()
    config = Embedding(model=str(folder("llama")), head_init="probe", lora=Lora(r=2), train=STILL)
    embedding.fit(config, rows, rows, seed=0, device="cpu", journal=journal)
    wanted = "head: begins at random, since the device ran out of memory fitting the head alone on 60 vectors"
    assert wanted in journal.notes


@pytest.mark.parametrize(
    ("kind", "settings", "told"),
    [
        (Embedding, {"head": "mlp"}, "head_init = probe fits one linear layer; leave head = mlp out, or head_init"),
        (Encoder, {"long": {"keep": "windows", "combine": "max"}}, "head_init = probe fits one vector a text; choose"),
    ],
)
def test_a_head_that_is_no_regression_is_refused(kind: type[Any], settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(kind, {"head_init": "probe", **settings})


def test_a_dimension_that_hardly_moves_does_not_count() -> None:
    """Its deviation is rounding; divided by it, rounding of other rows would decide."""
    rows = dataset(60)
    rng = np.random.default_rng(0)
    features = torch.from_numpy(np.c_[rng.normal(size=(60, 4)), np.full(60, 1000.3)].astype(np.float32))
    features[:, 0] += torch.from_numpy(rows.targets)
    found = fit_best(features.clone(), features.clone(), (rows, rows), class_loss)
    moved = features + torch.tensor([0, 0, 0, 0, 0.01])
    assert (moved @ found.weight.T - features @ found.weight.T).abs().max() < 1e-2


@pytest.mark.parametrize("far", [0.0, 3.0, 300.0])
@pytest.mark.parametrize("loss", [class_loss, label_loss])
def test_without_a_bias_the_fit_is_as_good_where_vectors_have_a_mean(far: float, loss: Callable[..., Any]) -> None:
    """What a bias says of rare labels, the mean of the vectors says too, however far from 0 it is; at 0 nothing does."""
    rng, multi = np.random.default_rng(0), loss is label_loss
    targets = rng.choice(3, 400, p=[0.9, 0.07, 0.03])
    rows = Dataset([str(i) for i in range(400)], [""] * 400, targets, LabelSpace(("a", "b", "c")))
    if multi:
        rows = Dataset(rows.ids, rows.texts, np.eye(3, dtype=bool)[targets], LabelSpace(("a", "b", "c"), True))
    vectors = torch.from_numpy(rng.normal(size=(400, 8)) + np.eye(3, 8)[targets] + far).float()
    found = {bias: fit_best(vectors.clone(), vectors.clone(), (rows, rows), loss, bias=bias) for bias in (True, False)}
    assert found[False].bias is None
    total, count = loss(vectors @ found[False].weight.T, torch.from_numpy(rows.targets))
    assert total.item() / count == pytest.approx(found[False].loss, rel=1e-3)  # it applies to the vectors as they are
    assert (found[False].loss < 1.02 * found[True].loss) == (far > 0)


def test_vectors_that_are_not_finite_are_told() -> None:
    rows = dataset(6)
    vectors = torch.full((6, 4), float("nan"))
    with pytest.raises(Diverged, match=r"^the frozen model's vectors are not finite; use --precision float32, "):
        fit_best(vectors, torch.zeros(6, 4), (rows, rows), class_loss)


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_of_few_rows_begins_as_the_names_rows(bias: bool) -> None:
    """One row a label says little of thirty dimensions; the names say all, and validation rows show it."""
    rng, rows = np.random.default_rng(0), dataset(300)
    names = torch.from_numpy(rng.normal(size=(3, 30)).astype(np.float32))

    def vectors(data: Dataset) -> torch.Tensor:
        noise = torch.from_numpy(rng.normal(size=(len(data), 30))).float()
        return names[torch.from_numpy(data.targets)] + noise + 30  # all have something in common

    few = rows.take(np.array([int(np.flatnonzero(rows.targets == label)[0]) for label in range(3)]))
    train_vectors, valid_vectors = vectors(few), vectors(rows)
    found = fit_best(train_vectors.clone(), valid_vectors.clone(), (few, rows), class_loss, bias=bias, names=names)
    alone = fit_best(train_vectors.clone(), valid_vectors.clone(), (few, rows), class_loss, bias=bias)
    assert (found.share > 0, alone.share) == (True, 0)
    assert found.loss < 0.8 * alone.loss
    start = fit_heads(train_vectors.clone(), valid_vectors.clone(), (few, rows), class_loss, bias=bias, names=names)[1]
    assert start.share == 0
    total, count = class_loss(logits_of(valid_vectors, found.weight, found.bias), torch.from_numpy(rows.targets))
    assert total.item() / count == pytest.approx(found.loss, rel=1e-4)  # the layer applies to the vectors as they are


@pytest.mark.parametrize("multi", [False, True])
def test_a_head_to_start_from_leaves_something_to_learn(multi: bool) -> None:
    """60 rows in 200 dimensions are all but learnt by heart where the validation loss alone ends the fit."""
    rng, parts, loss = np.random.default_rng(0), [dataset(60), dataset(60, seed=1)], label_loss if multi else class_loss
    vectors = [
        torch.from_numpy(rng.normal(size=(60, 200)) + 1.5 * np.eye(3, 200)[part.targets]).float() for part in parts
    ]
    if multi:
        space = LabelSpace(parts[0].labels.names, True)
        parts = [Dataset(part.ids, part.texts, np.eye(3, dtype=bool)[part.targets], space) for part in parts]
    heads = fit_heads(vectors[0].clone(), vectors[1].clone(), (parts[0], parts[1]), loss)
    ratios = []
    for head in heads:
        total, count = loss(logits_of(vectors[0], head.weight, head.bias), torch.from_numpy(parts[0].targets))
        ratios.append(total.item() / count / head.loss)
    assert ratios[0] < 0.7 < LEFT - 0.05 < ratios[1]
    assert heads[0].loss < heads[1].loss
    assert heads[0].penalty < heads[1].penalty


def test_validation_rows_of_other_labels_do_not_hold_the_head_back() -> None:
    """Its loss is higher from the first penalty on, so the ratio is low though nothing is known by heart."""
    rng, rows = np.random.default_rng(0), dataset(600)
    other = rows.take(np.sort(rng.permutation(np.flatnonzero(rows.targets == 2))[:30]))
    means = np.eye(3, 4)

    def vectors(data: Dataset) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=(len(data), 4)) + means[data.targets]).float()

    rows = rows.take(np.flatnonzero((rows.targets != 2) | (rng.random(len(rows)) < 0.1)))  # a label that is rare here
    best, start = fit_heads(vectors(rows), vectors(other), (rows, other), class_loss)
    assert start.loss < 1.1 * best.loss


@pytest.mark.parametrize(("rank", "times"), [(2, 2), (0, 1)])
def test_the_better_head_is_scored_and_the_other_one_begins(
    rank: int, times: int, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where LoRA has nothing to learn (r = 0), there is no other."""
    seen, put_in = list[float](), warm_start.put_in
    monkeypatch.setattr(
        warm_start, "put_in", lambda head, found, world: (seen.append(found.loss), put_in(head, found, world))
    )
    config, journal = Embedding(model=str(folder("llama")), lora=Lora(r=rank), train=STILL), Journal()
    embedding.fit(config, dataset(60), dataset(60, seed=1), seed=0, device="cpu", journal=journal)
    assert len(seen) == times
    assert seen == sorted(seen)
    begun = [note for note in journal.notes if note.startswith("head: training begins from a more regularised one")]
    assert len(begun) == times - 1


def test_names_that_mislead_are_left_out() -> None:
    rows, rng = dataset(60), np.random.default_rng(0)
    names = torch.from_numpy(rng.normal(size=(3, 8)).astype(np.float32))
    turned = names.roll(1, dims=0)  # each label's vectors point to the next one's name
    vectors = turned[torch.from_numpy(rows.targets)] + 0.1 * torch.from_numpy(rng.normal(size=(60, 8))).float()
    found = fit_best(vectors.clone(), vectors.clone(), (rows, rows), class_loss, names=names)
    assert found.share == 0


@pytest.mark.parametrize(("init", "count", "begun"), [("auto", 30, True), ("probe", 30, False), ("auto", 120, False)])
def test_names_are_asked_only_where_rows_are_few(
    init: str, count: int, begun: bool, folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("lasttoken.fitting.head.name_rows", lambda *given: asked.append(given))
    config = parse(Embedding, {"model": str(folder("llama")), "head_init": init, "train": STILL})
    embedding.fit(config, dataset(count), dataset(9), seed=0, device="cpu", journal=Journal())
    assert bool(asked) == begun
