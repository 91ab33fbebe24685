"""Label scores from one tree pass against one plain forward of AutoModelForCausalLM per label."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from precision import equal_but_for_rounding
from tiny import DECODERS, NESTED, PADDED, dataset, sentences
from transformers import AutoModelForCausalLM, PreTrainedModel

from lasttoken.infer import label_probs as scored
from lasttoken.infer import scoring
from lasttoken.infer.generation import generate, generate_again
from lasttoken.infer.label_probs import answer_paths, label_probs
from lasttoken.infer.scoring import lay_out_trees, score
from lasttoken.labels import LabelSpace
from lasttoken.methods.instruction import training_tree
from lasttoken.model.backbone import Backbone
from lasttoken.model.device import peak_resident, reset_peak
from lasttoken.model.kv_cache import prefill
from lasttoken.text.answer_tree import grow
from lasttoken.text.prompt import Prompt, make_prompt
from lasttoken.text.tokenizer import encode

NAMES = ("sport", "sports", "sports car", "trade of bonds", "é 🎹")  # prefixes of one another; several tokens each
TEXTS = ["goal", *sentences(4, seed=3), *[text * 3 for text in sentences(1, seed=2)]]
CLOSE = {"rtol": 1e-5, "atol": 5e-5}  # sums of up to 12 log-probabilities of size 5 to 10, each right to about 1e-6


@torch.inference_mode()
def log_probability(model: PreTrainedModel, before: list[int], answer: list[int]) -> float:
    """log p(answer | before) by an ordinary forward over the whole sequence."""
    logits = model(input_ids=torch.tensor([[*before, *answer]])).logits[0, len(before) - 1 : -1]
    chosen = logits.double().log_softmax(dim=-1)[torch.arange(len(answer)), torch.tensor(answer)]
    return float(chosen.sum())


@torch.inference_mode()
def tree_scores(backbone: Backbone, prompt: Prompt, labels: LabelSpace, *, kept: bool = False) -> np.ndarray:
    """Scores (texts, paths) of all texts in one packed row. kept: with the header run before, in a row of its own."""
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    header = prefill(backbone, prompt.header) if kept else prompt.header
    batch = lay_out_trees(backbone, header, encoded.ids, [grow(answer_paths(prompt, labels))] * len(TEXTS))
    return torch.stack(score(backbone, batch)).double().numpy()


def rows_before(backbone: Backbone, prompt: Prompt) -> list[list[int]]:
    """Header and text of each row, as ids."""
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    return [[*prompt.header.tolist(), *ids.tolist()] for ids in encoded.ids]


@pytest.mark.parametrize("name", sorted(DECODERS | NESTED | PADDED))
def test_scores_equal_one_forward_per_label(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone, labels = load_shared(name, vocabulary=True), LabelSpace(NAMES)
    prompt = make_prompt(backbone.tokenizer, labels)
    assert min(len(answer) for answer in prompt.answers) > 2
    plain = AutoModelForCausalLM.from_pretrained(
        folder(name), dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    wanted = [
        [log_probability(plain, [*before, *prompt.footer], answer) for answer in prompt.answers]
        for before in rows_before(backbone, prompt)
    ]
    equal_but_for_rounding(tree_scores(backbone, prompt, labels), wanted, backbone.compute, **CLOSE)
    if not backbone.padded:
        equal_but_for_rounding(tree_scores(backbone, prompt, labels, kept=True), wanted, backbone.compute, **CLOSE)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "gpt2", "gpt-oss", "bloom", "jamba"])
def test_yes_and_no_of_every_label_equal_one_forward_each(
    name: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, labels = load_shared(name, vocabulary=True), LabelSpace(NAMES, multi=True)
    if name == "gpt-oss" and backbone.compute == torch.bfloat16:
        pytest.skip("rounding decides which experts a token takes")
    prompt = make_prompt(backbone.tokenizer, labels)
    plain = AutoModelForCausalLM.from_pretrained(
        folder(name), dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    wanted = np.array(
        [
            [
                log_probability(plain, [*before, *question], answer)
                for question in prompt.questions
                for answer in (prompt.yes, prompt.no)
            ]
            for before in rows_before(backbone, prompt)
        ]
    )
    equal_but_for_rounding(tree_scores(backbone, prompt, labels), wanted, backbone.compute, **CLOSE)
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    expected = 1 / (1 + np.exp(wanted[:, 1::2] - wanted[:, 0::2]))  # yes against no, label by label
    for most in (scored.MOST, 8):  # in one tree, and in several
        monkeypatch.setattr(scored, "MOST", most)
        assert (len(scored.answer_trees(prompt, labels)) > 1) == (most == 8)
        probs = label_probs(backbone, prompt, encoded, labels, budget=100)
        equal_but_for_rounding(probs, expected, backbone.compute, rtol=0, atol=5e-5)


@pytest.mark.parametrize("budget", [1, 150, 100_000])
def test_probabilities_are_a_softmax_over_labels_whatever_the_batches(
    budget: int, load_shared: Callable[..., Backbone]
) -> None:
    backbone, labels = load_shared("llama", vocabulary=True), LabelSpace(NAMES)
    prompt = make_prompt(backbone.tokenizer, labels)
    scores = tree_scores(backbone, prompt, labels)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    probs = label_probs(backbone, prompt, encoded, labels, budget=budget)
    equal_but_for_rounding(probs, expected, backbone.compute, rtol=0, atol=1e-5)  # scores in other batches


@pytest.mark.parametrize("chunk", [1, 7, 50])
def test_the_vocabulary_goes_in_chunks_of_any_size(
    chunk: int, load_shared: Callable[..., Backbone], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, labels = load_shared("llama", vocabulary=True), LabelSpace(NAMES)
    prompt = make_prompt(backbone.tokenizer, labels)
    whole = tree_scores(backbone, prompt, labels)
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    equal_but_for_rounding(tree_scores(backbone, prompt, labels), whole, backbone.compute, **CLOSE)


@pytest.mark.parametrize("variant", [{}, {"bos": False, "pad": "none"}, {"chat": True, "pad": "eos"}])
def test_what_is_taught_is_what_is_scored(variant: dict, load_shared: Callable[..., Backbone]) -> None:
    """A row's training answer has, token for token, the log-probability that prediction gives to its label."""
    backbone = load_shared("llama", vocabulary=True, **variant)
    train = dataset(3)
    prompt = make_prompt(backbone.tokenizer, train.labels)
    encoded = encode(backbone.tokenizer, train.texts, limit=60, special=False)
    rng = np.random.default_rng(0)
    trees = [training_tree(prompt, backbone, train, row, 16, rng) for row in range(3)]
    assert [weight.tolist() for _, weight in trees] == [[1.0]] * 3
    with torch.inference_mode():
        taught = score(backbone, lay_out_trees(backbone, prompt.header, encoded.ids, [tree for tree, _ in trees]))
        scored = score(
            backbone,
            lay_out_trees(backbone, prompt.header, encoded.ids, [grow(answer_paths(prompt, train.labels))] * 3),
        )
    wanted = [float(scored[row][train.targets[row]]) for row in range(3)]
    equal_but_for_rounding([float(path[0]) for path in taught], wanted, backbone.compute, rtol=0, atol=5e-5)


def test_a_path_alone_scores_as_in_the_tree_of_all(load_shared: Callable[..., Backbone]) -> None:
    """A label that is the beginning of another is no different for it."""
    backbone, labels = load_shared("qwen3", vocabulary=True), LabelSpace(NAMES)
    prompt = make_prompt(backbone.tokenizer, labels)
    together = tree_scores(backbone, prompt, labels)
    encoded = encode(backbone.tokenizer, TEXTS, limit=60, special=False)
    for j in range(len(NAMES)):
        tree = grow([prompt.answer_path(j)])
        with torch.inference_mode():
            alone = score(backbone, lay_out_trees(backbone, prompt.header, encoded.ids, [tree] * len(TEXTS)))
        equal_but_for_rounding(torch.cat(alone).numpy(), together[:, j], backbone.compute, **CLOSE)


@pytest.mark.parametrize("pad", ["own", "eos", "none"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_greedy_answers_are_those_of_one_prompt_at_a_time(
    name: str, pad: str, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    backbone = load_shared(name, vocabulary=True, pad=pad)
    prompts = [backbone.tokenizer(text)["input_ids"] for text in TEXTS]
    plain = AutoModelForCausalLM.from_pretrained(
        folder(name, pad=pad), dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    wanted = []
    for ids in prompts:
        for _ in range(6):  # greedy decoding, written out
            with torch.inference_mode():
                ids = [*ids, int(plain(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] == backbone.tokenizer.eos_token_id:
                break
        wanted.append(ids)
    expected = [
        backbone.tokenizer.decode(ids[len(before) :], skip_special_tokens=True)
        for ids, before in zip(wanted, prompts, strict=True)
    ]
    given = [np.array(ids, dtype=np.int64) for ids in prompts]
    with torch.inference_mode():
        found = generate(backbone, prefill(backbone, np.empty(0, dtype=np.int64)), given, 6)
        behind = generate(backbone, prefill(backbone, given[0][:2]), [given[0][2:]], 6)
        again = generate_again(backbone, given, 6)
    said = [backbone.tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
    assert len(set(said)) > 1
    assert said == expected
    assert behind == [found[0]]  # two of its tokens kept as a header
    assert again == found


@pytest.mark.parametrize("tolerance", [0.0, 0.01])
def test_thousands_of_labels_in_bounded_memory(
    tolerance: float, folder: Callable[..., Path], load_shared: Callable[..., Backbone]
) -> None:
    """Scores of 4,800 labels: exact for a sample, within 400 MiB of what the process had (in one tree they take 1.3 GiB)."""
    names = tuple(f"{a} {b}{i}" for i, (a, b) in enumerate([(x, y) for x in "abcdefghij" for y in "klmnopqrst"] * 48))
    backbone, labels = load_shared("llama", vocabulary=True), LabelSpace(names)
    prompt = make_prompt(backbone.tokenizer, labels, room=100)
    assert not prompt.listed
    encoded = encode(backbone.tokenizer, TEXTS[:2], limit=60, special=False)
    reset_peak(torch.device("cpu"))
    before = peak_resident()
    probs = label_probs(backbone, prompt, encoded, labels, budget=8192, tolerance=tolerance)
    assert peak_resident() - before < 400 * 2**20
    if tolerance:
        exact = label_probs(backbone, prompt, encoded, labels, budget=8192)
        assert 1e-5 < np.abs(probs - exact).max() <= tolerance  # some were left out: more than rounding
        return
    plain = AutoModelForCausalLM.from_pretrained(
        folder("llama"), dtype=backbone.compute, attn_implementation="eager"
    ).eval()
    chosen = [0, 7, 599, 1199, 4799]
    for row, text in enumerate(rows_before(backbone, prompt)[:2]):
        wanted = [log_probability(plain, [*text, *prompt.footer], prompt.answers[j]) for j in chosen]
        found = np.log(probs[row, chosen])
        equal_but_for_rounding(found - found[0], np.array(wanted) - wanted[0], backbone.compute, rtol=1e-5, atol=2e-4)
