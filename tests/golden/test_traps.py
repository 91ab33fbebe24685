"""The traps others fell into, one test each; the issue that tells of it is named where there is one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from precision import equal_but_for_rounding
from safetensors.torch import load_file
from tiny import DECODERS, ENCODERS, NESTED, PADDED, dataset, make_tokenizer, sentences
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from lasttoken import catalog
from lasttoken.config.methods import Embedding, Encoder, Instruction, Linear, Probe
from lasttoken.config.settings import Lora, Training
from lasttoken.data.dataset import Dataset
from lasttoken.errors import ConfigError, ModelError
from lasttoken.evaluation.metrics import METRICS
from lasttoken.fitting.fit import Trained
from lasttoken.fitting.head import fit_head
from lasttoken.infer.batches import pack
from lasttoken.infer.head import head_probs
from lasttoken.infer.label_probs import answer_paths, label_probs
from lasttoken.infer.reading import token_limit
from lasttoken.journal import Journal
from lasttoken.labels import LabelSpace
from lasttoken.methods import embedding
from lasttoken.methods.classifier import Fitted
from lasttoken.model.adapter import adapt
from lasttoken.model.attention import packed_attention
from lasttoken.model.backbone import Backbone
from lasttoken.model.load import quantised_layers
from lasttoken.model.pooling import Head
from lasttoken.model.precision import choose_precision
from lasttoken.plan.model_shape import load_shape
from lasttoken.text.answer_tree import grow
from lasttoken.text.prompt import make_prompt
from lasttoken.text.tokenizer import Encoded, encode

QUICK = Training(epochs=2, batch=8, lr=0.01, budget=256, patience=9)
LORA = Lora(r=4, alpha=8.0)
CONFIGS: dict[str, Callable[[Callable[..., Path]], Any]] = {
    "linear": lambda folder: Linear(),
    "probe": lambda folder: Probe(model=str(folder("llama"))),
    "probe-nf4": lambda folder: Probe(
        model=str(folder("qwen3")), quantize="nf4", layer=1, pooling="last", bidirectional=True
    ),
    "probe-encoder": lambda folder: Probe(model=str(folder("bert"))),
    "embedding": lambda folder: Embedding(model=str(folder("llama")), head_init="random", lora=LORA, train=QUICK),
    "embedding-nf4": lambda folder: Embedding(model=str(folder("llama-96")), lora=LORA, quantize="nf4", train=QUICK),
    "embedding-nf4-kept": lambda folder: Embedding(
        model=str(folder("llama-96")), lora=LORA, quantize="nf4", merge="off", train=QUICK
    ),
    "embedding-head-only": lambda folder: Embedding(
        model=str(folder("gemma3")),
        lora=Lora(r=0),
        pooling="attention",
        head="mlp",
        class_weights="balanced",
        train=QUICK,
    ),
    "embedding-dora": lambda folder: Embedding(model=str(folder("mistral")), lora=Lora(r=4, dora=True), train=QUICK),
    "instruction": lambda folder: Instruction(model=str(folder("llama")), lora=LORA, train=QUICK),
    "instruction-nf4": lambda folder: Instruction(model=str(folder("smollm3")), lora=LORA, quantize="nf4", train=QUICK),
    "instruction-zero-shot": lambda folder: Instruction(model=str(folder("llama", chat=True)), train_model=False),
    "instruction-generate": lambda folder: Instruction(
        model=str(folder("llama")), lora=LORA, decode="generate", train=QUICK
    ),
    "probe-padded": lambda folder: Probe(model=str(folder("mpt"))),
    "embedding-padded": lambda folder: Embedding(model=str(folder("jamba")), lora=LORA, train=QUICK),
    "embedding-padded-nf4": lambda folder: Embedding(
        model=str(folder("qwen3.5")), lora=LORA, quantize="nf4", train=QUICK
    ),
    "instruction-padded": lambda folder: Instruction(model=str(folder("bloom")), lora=LORA, train=QUICK),
    "instruction-padded-generate": lambda folder: Instruction(
        model=str(folder("falcon")), lora=LORA, decode="generate", train=QUICK
    ),
    "encoder-padded": lambda folder: Encoder(model=str(folder("t5")), head_init="random", train=QUICK),
    "encoder": lambda folder: Encoder(model=str(folder("modernbert")), head_init="random", train=QUICK),
    "encoder-first": lambda folder: Encoder(
        model=str(folder("roberta")), pooling="first", precision="float32", train=QUICK
    ),
}


def fit_whole(config: Any, *, multi: bool = False, seed: int = 3) -> Fitted:
    """`config` fitted on 20 rows."""
    train, valid = dataset(20, multi=multi), dataset(9, multi=multi, seed=1)
    return catalog.fit(config, train, valid, seed=seed, device="cpu")


def fit(config: Any, **more: Any) -> Any:
    """The classifier of `config` on 20 rows."""
    return fit_whole(config, **more).classifier


@torch.inference_mode()
def packed_hidden(backbone: Backbone, encoded: Encoded) -> tuple[Tensor, Tensor]:
    """(hidden states (T, H), ends (B,)) of all rows in one packed row."""
    batch = pack(encoded, np.arange(len(encoded)), backbone)
    return backbone.hidden(batch.inputs, batch.layout), batch.layout.ends


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_what_is_loaded_predicts_bit_for_bit_what_was_saved(
    name: str, multi: bool, folder: Callable[..., Path], tmp_path: Path
) -> None:
    """Heads that were not saved, or labels that were lost (peft #577, #876, #1070, #2027)."""
    fitted = fit(CONFIGS[name](folder), multi=multi)
    texts = dataset(7, seed=2).texts
    probs = fitted.predict_proba(texts).probs
    assert probs.shape == (7, 3)
    assert probs.dtype == np.float64
    assert ((probs >= 0) & (probs <= 1)).all()
    if not multi:
        whole = probs.any(axis=1) if name.endswith("-generate") else np.ones(7)  # an answer may name none
        assert probs.sum(axis=1) == pytest.approx(whole.astype(float), abs=1e-12)
    fitted.save(tmp_path)
    torch.rand(3)
    loaded = catalog.load(tmp_path, device="cpu")
    assert loaded.labels == LabelSpace(("music", "sport", "trade"), multi)
    assert np.array_equal(loaded.predict_proba(texts).probs, probs)


@pytest.mark.parametrize("name", sorted(name for name in CONFIGS if not name.endswith(("zero-shot", "generate"))))
def test_a_run_repeats_bit_for_bit_from_its_seed(
    name: str, folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = dataset(7, seed=2).texts
    multi = name in ("embedding", "instruction", "encoder")
    first = fit(CONFIGS[name](folder), multi=multi).predict_proba(texts).probs
    monkeypatch.setenv("LASTTOKEN_CACHE", str(tmp_path))  # features are computed again too
    torch.rand(11)
    np.random.default_rng().random()
    assert np.array_equal(fit(CONFIGS[name](folder), multi=multi).predict_proba(texts).probs, first)


@pytest.mark.parametrize("name", ["embedding", "instruction", "encoder"])
def test_another_seed_is_another_run(name: str, folder: Callable[..., Path]) -> None:
    texts = dataset(7, seed=2).texts
    one, other = (fit(CONFIGS[name](folder), seed=seed).predict_proba(texts).probs for seed in (1, 2))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_the_last_token_is_pooled_where_padding_is_the_end_token(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    """Searching for the first padding id finds the wrong token (transformers #35909, #35352; peft #3620)."""
    backbone = load_shared(name, pad="eos")
    theirs = AutoModelForSequenceClassification.from_pretrained(
        folder(name, pad="eos"), num_labels=3, dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    head = Head(backbone.width, 3, bias=False)
    with torch.no_grad():
        head.layers.weight.copy_(theirs.score.weight)
    texts = ["goal team</s></s>", "</s>", "song", "</s>market</s>"]
    encoded = encode(backbone.tokenizer, texts, limit=64)
    assert encoded.ids[0][-2:].tolist() == [2, 2]
    with torch.inference_mode():
        found = head(*packed_hidden(backbone, encoded))
        states = [theirs.base_model(input_ids=torch.tensor(ids[None])).last_hidden_state[0, -1] for ids in encoded.ids]
        by_id = theirs(input_ids=torch.tensor(encoded.ids[0][None])).logits[0]
    # float32 sums in another order
    equal_but_for_rounding(found, torch.stack(states) @ theirs.score.weight.T, backbone.compute, rtol=1e-5, atol=1e-5)
    assert (found[0] - by_id).abs().max() > 1e-3  # the trap itself, as transformers has it


@pytest.mark.parametrize("name", ["probe", "embedding", "instruction", "encoder"])
def test_a_model_computes_in_the_precision_of_its_config_wherever_it_is_loaded(
    name: str, folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked, other in (("float32", "bfloat16"), ("bfloat16", "float32")):
        monkeypatch.setenv("LASTTOKEN_PRECISION", other)
        fitted = fit(CONFIGS[name](folder).model_copy(update={"precision": asked}))
        (tmp_path / asked).mkdir()
        fitted.save(tmp_path / asked)
        for model in (fitted, catalog.load(tmp_path / asked, device="cpu")):
            assert model.backbone.compute == getattr(torch, asked)


@pytest.mark.parametrize("method", ["embedding", "instruction", "instruction-generate", "probe"])
def test_a_tokenizer_without_padding_serves(method: str, folder: Callable[..., Path]) -> None:
    """Batches of more than one row are refused elsewhere (transformers #34055, trl #422)."""
    model = str(folder("llama", pad="none", bos=False))
    model = fit(CONFIGS[method](folder).model_copy(update={"model": model}))
    texts = sentences(5, seed=4)
    probs = model.predict_proba(texts).probs
    alone = np.concatenate([model.predict_proba([text]).probs for text in texts])
    # products in bfloat16 may be summed in another order in another batch
    np.testing.assert_allclose(probs, alone, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", [*sorted(DECODERS), *sorted(NESTED), *sorted(PADDED), *sorted(ENCODERS)])
def test_packed_texts_never_see_each_other(name: str, load_shared: Callable[..., Backbone]) -> None:
    """Perturb one text: every other text's hidden states stay what they were, bit for bit."""
    backbone = load_shared(name, kind="encoder" if name in ENCODERS else "decoder")
    encoded = encode(backbone.tokenizer, sentences(5, seed=6), limit=64)
    before, ends = packed_hidden(backbone, encoded)
    changed = Encoded(list(encoded.ids), encoded.lost, encoded.limit)
    changed.ids[2] = (changed.ids[2] + 17) % 256 + 3
    after, _ = packed_hidden(backbone, changed)
    mine = slice(int(ends[1]) + 1, int(ends[2]) + 1)
    others = torch.ones(len(before), dtype=torch.bool)
    others[mine] = False
    assert torch.equal(after[others], before[others])
    assert (after[mine] - before[mine]).abs().max() > 0.01


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt2", "bert", "modernbert"])
def test_a_layout_lost_on_the_way_is_refused(name: str, load_shared: Callable[..., Backbone]) -> None:
    """Boundary arguments that are dropped silently mix the texts of a row (transformers PR #35861)."""
    backbone = load_shared(name, kind="encoder" if name in ENCODERS else "decoder")
    with pytest.raises(RuntimeError, match=r"did not hand on the layout: packed texts would see each other"):
        backbone.module(input_ids=torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize("unknown", [{"block_indices": torch.zeros(2)}, {"position_bias": torch.zeros(2)}])
def test_an_attention_that_packing_does_not_know_is_refused(
    unknown: dict, load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared("llama")
    encoded = encode(backbone.tokenizer, ["goal"], limit=8)
    layout = pack(encoded, np.arange(1), backbone).layout
    states = torch.zeros(1, 2, len(encoded.ids[0]), 4)
    with pytest.raises(RuntimeError, match=r"^Identity attends by \w+, which packing does not know$"):
        packed_attention(nn.Identity(), states, states, states, None, layout=layout, **unknown)


@pytest.mark.parametrize("multi", [False, True])
def test_the_vocabulary_head_runs_only_where_an_answer_is_predicted(
    multi: bool, load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared("llama", vocabulary=True)
    labels = LabelSpace(("music", "sport", "sports"), multi)
    prompt = make_prompt(backbone.tokenizer, labels)
    encoded = encode(backbone.tokenizer, sentences(4, seed=7), limit=64, special=False)
    rows: list[int] = []
    hook = backbone.vocabulary.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    try:
        label_probs(backbone, prompt, encoded, labels, budget=64)
    finally:
        hook.remove()
    tree = grow(answer_paths(prompt, labels))
    assert sum(rows) == 4 * len(tree.nodes)


def test_no_vocabulary_head_is_loaded_for_an_embedding(folder: Callable[..., Path]) -> None:
    fitted = fit(CONFIGS["embedding"](folder))
    assert fitted.backbone.vocabulary is None
    assert not [name for name, _ in fitted.backbone.whole.named_modules() if "lm_head" in name]


@pytest.mark.parametrize("name", ["embedding", "embedding-nf4", "embedding-nf4-kept"])
def test_the_head_is_float32_and_neither_wrapped_nor_quantised(
    name: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A head in half precision, in 4-bit, or under LoRA gives NaN or is lost (transformers #24731, peft #1522, #2027)."""
    fitted = fit(CONFIGS[name](folder))
    assert type(fitted.head.layers) is nn.Linear
    assert {p.dtype for p in fitted.head.parameters()} == {torch.float32}
    assert not [m for m in fitted.head.modules() if isinstance(m, BaseTunerLayer)]
    fitted.save(tmp_path)
    saved = load_file(tmp_path / "head.safetensors")
    assert saved.keys() == {"layers.weight"}
    assert torch.equal(saved["layers.weight"], fitted.head.layers.weight)
    assert json.loads((tmp_path / "method.json").read_text())["labels"] == {
        "names": ["music", "sport", "trade"],
        "multi": False,
    }
    packed, linears = quantised_layers(fitted.backbone.module)
    assert (packed, linears) == {
        "embedding": (0, 14 * 3),  # the two matrices of every adapter counted
        "embedding-nf4": (0, 14 * 3),  # merged into de-quantised weights to predict
        "embedding-nf4-kept": (14, 14 * 3),
    }[name]


@pytest.mark.parametrize("name", ["embedding-nf4", "instruction-nf4"])
def test_who_loads_says_whether_4_bits_are_kept(name: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    fitted = fit(CONFIGS[name](folder))
    fitted.save(tmp_path)
    texts = dataset(6, seed=9).texts
    kept, whole = catalog.load(tmp_path, merge="off"), catalog.load(tmp_path, merge="auto")
    assert [quantised_layers(model.backbone.module)[0] for model in (kept, whole, fitted)] == [14, 0, 0]
    np.testing.assert_array_equal(whole.predict_proba(texts).probs, fitted.predict_proba(texts).probs)
    # merged weights are rounded once more than those that are apart: in bfloat16 by half an eps each
    bound = max(1e-3, torch.finfo(kept.backbone.compute).eps)
    np.testing.assert_allclose(kept.predict_proba(texts).probs, fitted.predict_proba(texts).probs, rtol=0, atol=bound)
    with pytest.raises(ConfigError, match="merge: 'on' is not among auto, off"):
        catalog.load(tmp_path, merge="on")


def test_what_has_no_adapter_is_not_merged(folder: Callable[..., Path], tmp_path: Path) -> None:
    fit(CONFIGS["probe"](folder)).save(tmp_path)
    with pytest.raises(ConfigError, match="merge: method probe has no adapter to merge; leave it out"):
        catalog.load(tmp_path, merge="off")


def test_float16_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lasttoken.model.precision.rates", lambda shape: {"float32": 1.0, "bfloat16": 2.0})
    monkeypatch.setenv("LASTTOKEN_PRECISION", "auto")
    for native in (False, True):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True, native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr("platform.mac_ver", lambda native=native: ("14.1" if native else "13.6", ("", "", ""), ""))
        wanted = torch.bfloat16 if native else torch.float32
        assert [choose_precision(torch.device(kind)).dtype for kind in ("cpu", "cuda", "mps")] == [wanted] * 3


def trained_head(load_fresh: Callable[..., Backbone], train: Dataset, **settings: Any) -> tuple[np.ndarray, Trained]:
    """(probabilities after a fit, what came of it)."""
    backbone, valid = load_fresh("llama"), dataset(9, multi=train.labels.multi, seed=1)
    torch.manual_seed(0)
    head = Head(backbone.width, 3)
    adapt(backbone, r=4, alpha=8.0, dropout=0.0, seed=0)
    config = Embedding(
        head_init="random",
        merge="off",
        train=Training(lr=0.01, batch=8, **settings),
        max_length=64,
        class_weights="balanced",
    )
    trained = fit_head(backbone, head, (train, valid), config, seed=0, journal=Journal())
    encoded = encode(backbone.tokenizer, valid.texts, limit=64)
    return head_probs(backbone, head, encoded, train.labels, budget=256), trained


@pytest.mark.parametrize("multi", [False, True])
def test_micro_batches_do_not_change_what_is_learnt(
    multi: bool, precision: str, load_fresh: Callable[..., Backbone]
) -> None:
    """Averages of averages weigh rows unequally (transformers #34191); here 20 rows in updates of 8, weighted by class."""
    train = dataset(20, multi=multi)
    whole, told = trained_head(load_fresh, train, epochs=2, budget=10_000)
    pieces, again = trained_head(load_fresh, train, epochs=2, budget=1)
    # six AdamW updates divide gradients by their own size, which enlarges float32's differences of 1e-7 to 1e-3;
    # in bfloat16 what a matrix product rounds, half an eps, is the larger part
    bound = max(1e-3, torch.finfo(getattr(torch, precision)).eps)
    np.testing.assert_allclose(pieces, whole, rtol=0, atol=bound)
    assert [step.loss for step in again.steps] == pytest.approx([step.loss for step in told.steps], rel=bound)
    assert len(told.steps) == 6


def test_the_best_weights_are_those_that_stay(load_fresh: Callable[..., Backbone]) -> None:
    """Best checkpoint, PEFT and early stopping agree (transformers #24252, #30478, PR #36201)."""
    train = dataset(20)
    scrambled = Dataset(train.ids, train.texts, np.roll(train.targets, 1), train.labels)  # learning it harms validation
    probs, trained = trained_head(load_fresh, scrambled, epochs=30, patience=3, evaluations=3)
    scores = [step.score for step in trained.steps if step.score is not None]
    best = int(np.argmax(scores))
    assert len(scores) == best + 1 + 3  # stopped
    assert scores[-1] < max(scores)
    assert METRICS["micro_f1"](dataset(9, seed=1).targets, probs) == max(scores)


@pytest.mark.parametrize("method", ["embedding", "instruction", "probe"])
def test_a_nested_text_config_serves(method: str, folder: Callable[..., Path], tmp_path: Path) -> None:
    """The sizes of the text model stand in `get_text_config()` (unsloth #6036)."""
    config = CONFIGS[method](folder).model_copy(update={"model": str(folder("gemma3-nested"))})
    fitted = fit(config)
    assert fitted.backbone.width == 64
    assert fitted.backbone.window == 256
    fitted.save(tmp_path)
    texts = dataset(7, seed=2).texts
    assert np.array_equal(
        catalog.load(tmp_path, device="cpu").predict_proba(texts).probs, fitted.predict_proba(texts).probs
    )


def test_an_encoder_decoder_serves_methods_that_read_with_its_encoder(load_fresh: Callable[..., Backbone]) -> None:
    with pytest.raises(
        ModelError, match=r"\(t5\) is an encoder-decoder; its encoder can be trained with --method enco"
    ):
        load_fresh("t5")
    assert not load_fresh("t5", kind="encoder").causal


def test_each_method_names_the_other_for_the_other_kind_of_model(load_fresh: Callable[..., Backbone]) -> None:
    with pytest.raises(ModelError, match=r"is an encoder \(its tokens see both ways\); use --method encoder$"):
        load_fresh("bert")
    with pytest.raises(ModelError, match=r"is a causal language model, not an encoder; use --method embedding$"):
        load_fresh("llama", kind="encoder")


def test_a_dropped_causal_mask_lets_every_token_see_the_text(load_shared: Callable[..., Backbone]) -> None:
    """What `bidirectional` of the probe asks for, against a causal pass: the first token moves, neighbours do not count."""
    backbone = load_shared("llama")
    encoded = encode(backbone.tokenizer, sentences(3, seed=8), limit=64)
    both = pack(encoded, np.arange(3), backbone, causal=False)
    alone = pack(encoded, np.arange(1), backbone, causal=False)
    with torch.inference_mode():
        seen = backbone.hidden(both.inputs, both.layout)
        one = backbone.hidden(alone.inputs, alone.layout)
    equal_but_for_rounding(
        seen[: len(one)], one, backbone.compute, rtol=1e-5, atol=1e-5
    )  # other shapes, other order of sums
    assert (seen[0] - packed_hidden(backbone, encoded)[0][0]).abs().max() > 0.01


def test_the_tiny_tokenizers_are_what_their_names_say(folder: Callable[..., Path]) -> None:
    own, same, none = (make_tokenizer(pad=pad) for pad in ("own", "eos", "none"))
    assert (own.pad_token_id, own.eos_token_id) == (1, 2)
    assert same.pad_token_id == same.eos_token_id == 2
    assert none.pad_token_id is None
    assert AutoModel.from_pretrained(folder("llama", pad="eos")).config.pad_token_id == 2


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("name", ["linear", "probe", "embedding", "instruction", "instruction-generate", "encoder"])
def test_no_rows_and_rows_without_words(name: str, multi: bool, folder: Callable[..., Path]) -> None:
    fitted = fit(CONFIGS[name](folder), multi=multi)
    assert np.isfinite(fitted.predict_proba(["", " \n", "\x00"]).probs).all()
    assert fitted.predict_proba([]).probs.shape == (0, 3)


@pytest.mark.parametrize("method", ["embedding", "instruction", "encoder"])
def test_rows_are_counted_as_they_were_processed(method: str, folder: Callable[..., Path]) -> None:
    """Throughput from planned rows came out five times too high in the paper's code; here 20 rows make 8 + 8 + 4."""
    fitted = fit_whole(CONFIGS[method](folder))
    assert [step.rows for step in fitted.steps] == [8, 8, 4, 8, 8, 4]
    counted = fitted.steps[1:]  # the first is warm-up
    rate = sum(step.rows for step in counted) / sum(step.seconds for step in counted)
    assert fitted.cost.rows_per_second == pytest.approx(rate)


def test_rows_are_counted_where_training_stopped_early(folder: Callable[..., Path]) -> None:
    still = Training(epochs=9, batch=8, lr=1e-9, patience=1)  # learns nothing, so the second score is no gain
    fitted = fit_whole(CONFIGS["embedding"](folder).model_copy(update={"train": still}))
    assert [step.rows for step in fitted.steps] == [8, 8, 4, 8, 8, 4]
    assert (fitted.end.how, fitted.end.update) == ("early", 3)


@pytest.mark.parametrize("decode", ["score", "generate"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_longest_answer_fits_the_window_too(name: str, decode: str, folder: Callable[..., Path]) -> None:
    """A row of nine labels is taught, and generated, as one long answer behind a text that was cut to the window."""
    labels = LabelSpace(tuple(f"label{i}" for i in range(9)), multi=True)
    targets = np.zeros((8, 9), dtype=bool)
    targets[:4] = True
    rows = Dataset([str(i) for i in range(8)], ["goal team " * 60] * 8, targets, labels)
    config = Instruction(model=str(folder(name)), lora=LORA, decode=decode, train=QUICK)
    longest: list[int] = []
    original = Backbone.hidden

    def watch(self: Backbone, tokens: Tensor, layout: Any, **options: Any) -> Tensor:
        longest.append(int(layout.positions.max()))
        return original(self, tokens, layout, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backbone, "hidden", watch)
        fitted = catalog.fit(config, rows, rows, device="cpu").classifier
        assert fitted.predict_proba(rows.texts[:2]).probs.shape == (2, 9)
    assert max(longest) < 256


def test_instruction_without_an_adapter_has_nothing_to_train(folder: Callable[..., Path]) -> None:
    config = Instruction(model=str(folder("llama")), lora=Lora(r=0), train=QUICK)
    with pytest.raises(ConfigError, match=r"lora\.r"):
        fit(config)


def test_what_was_trained_before_in_this_process_changes_nothing(folder: Callable[..., Path]) -> None:
    data = dataset(24)
    config = Embedding(model=str(folder("llama")), lora=LORA, train=QUICK)
    found = []
    for _ in range(2):
        made = catalog.fit(config, data, data, seed=0, device="cpu", journal=Journal()).classifier
        found.append(made.predict_proba(data.texts).probs)
        torch.rand(1000)  # as whatever draws random numbers in between would
    assert (found[0] == found[1]).all()


def test_texts_end_where_longrope_would_change_their_neighbours(folder: Callable[..., Path]) -> None:
    """One text of more tokens than the model was first trained with turns the positions of a whole row into others."""
    place = folder("phi3-longrope")
    config = Embedding(model=str(place), max_length=200, lora=Lora(r=4))
    backbone, _ = embedding.build(config, LabelSpace(("a", "b")), torch.device("cpu"), seed=0)
    assert (backbone.config.max_position_embeddings, backbone.window) == (256, 128)
    assert token_limit(config, backbone) == 128
    assert load_shape(str(place)).window == 128


def test_weights_that_find_no_memory_say_what_to_do(
    load_fresh: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: PreTrainedModel, *arguments: Any) -> PreTrainedModel:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PreTrainedModel, "to", full)
    with pytest.raises(
        ModelError, match=r"cpu \(1 thread\) has no memory left for its weights; use a smaller model, or --quantize"
    ):
        load_fresh("llama")
