"""The form of a classifier that answers in words: a merged causal LM, and the prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch

from lasttoken.export import hf
from lasttoken.export.making import Making
from lasttoken.export.use import block
from lasttoken.infer.portable import PortableLM
from lasttoken.methods.instruction import of_export
from lasttoken.record.artifact import SETTINGS
from lasttoken.record.folder import write_json

USE = block("bash", "lasttoken predict FOLDER new.csv  # scores every label exactly")


def write_answers(making: Making, plain: PortableLM) -> None:
    """The model, its tokenizer and prompt.json; with answers of one token, how vLLM classifies by them."""
    hf.write_answering(plain, making.part)
    # read as `predict` will read it
    write_json(making.part / SETTINGS, {key: making.source.stored[key] for key in ("config", "labels")})
    answers = making.source.calibrated(of_export(making.part))
    form = ("hf", "lasttoken", plain.precision, ".")
    files = [path for path in making.part.iterdir() if path.is_file()]
    making.keep(form, answers, answers, files=files, how=USE)
    tokens = hf.one_token_answers(plain)
    if tokens is None or not making.forms:
        return
    agreement = float(making.source.reference.same(first_token_probs(plain, making.source.reference.texts)).mean())
    making.journal.note(f"by the first token of the answer alone {agreement:.1%} of rows get the run's decision")
    if agreement >= making.wanted.required(plain.precision):
        making.how["vllm"] = one_token_use(plain, tokens)


@torch.inference_mode()
def first_token_probs(plain: PortableLM, texts: Sequence[str]) -> np.ndarray:
    """Softmax over the labels' first tokens after the prompt, (N, C): what `classifier_from_token` computes."""
    prompt, columns = plain.prompt, [int(answer[0]) for answer in plain.prompt.answers]
    probs = np.zeros((len(texts), len(columns)))
    for row, text in enumerate(texts):
        room = plain.limit - len(prompt.header) - len(prompt.footer) - 2
        own = plain.tokenizer(text, add_special_tokens=False)["input_ids"][:room]
        ids = torch.tensor([[*prompt.header.tolist(), *own, *prompt.footer]])
        probs[row] = plain.model(input_ids=ids).logits[0, -1, columns].float().softmax(dim=0).numpy()
    return probs


def one_token_use(plain: PortableLM, tokens: Sequence[str]) -> str:
    """How vLLM serves it as a classifier: labels are LABEL_0 and on, in the order of the tokens, and the prompt is the caller's."""
    kind = type(plain.model).__name__.replace("ForCausalLM", "ForSequenceClassification")
    overrides = {"architectures": [kind], "classifier_from_token": list(tokens), "method": "no_post_processing"}
    around = [str(plain.tokenizer.decode(ids)) for ids in (plain.prompt.header.tolist(), plain.prompt.footer)]
    return block(
        "bash",
        "# every answer is one token, so vLLM can classify by it (not run here); label j is token j of the list",
        f"vllm serve FOLDER --runner pooling --hf-overrides '{json.dumps(overrides)}'",
        f"# send this prompt: {json.dumps(around[0] + 'YOUR TEXT' + around[1], ensure_ascii=False)}",
    )
