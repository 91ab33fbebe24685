"""A classifier in transformers' own layout: `...ForSequenceClassification` of its architecture.

A causal LM has one linear layer without a bias (`score`) on the last token that is not padding. BERT and RoBERTa have the
first token, a dense layer with tanh, then a linear layer. What they cannot express is refused, with what to set instead.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from lasttoken.config.exportable import ENCODERS, POOLED, layout_problems
from lasttoken.config.settings import Settings
from lasttoken.errors import ConfigError
from lasttoken.evaluation.policy import Policy
from lasttoken.infer.portable import Portable
from lasttoken.labels import LabelSpace
from lasttoken.model.quiet import quiet

SMALL = 2.0**-8  # tanh(x * SMALL) / SMALL differs from x by x^3 / 200,000; x * SMALL is no subnormal of float16
RIDGE = 1e-3  # of the mean square of the vectors, when a bias is brought into the weights


def refuse(config: Settings, policy: Policy) -> None:
    """Raises ConfigError with everything about a run that the layout cannot express."""
    found = layout_problems(config)
    if policy.calibration.method not in ("none", "temperature"):
        found.append(f"decision.calibration: the layout has one temperature, here it is {policy.calibration.method}")
    if found:
        able = config.model_dump()["method"] in POOLED
        remedy = (
            "train with --exportable, or leave hf and peft out: --to onnx or openvino can"
            if able
            else "--to onnx or openvino can"
        )
        raise ConfigError([*found, remedy])


def temperature_of(policy: Policy) -> float:
    """What logits are divided by for calibrated probabilities; 1 without a temperature."""
    if policy.calibration.method != "temperature":
        return 1.0
    return float(policy.calibration.parameters["temperature"])


def divided(layers: nn.Module, temperature: float) -> nn.Module:
    """A copy of the layers whose logits are divided by the temperature, in the weights of the last of them."""
    layers = copy.deepcopy(layers)
    final = [part for part in layers.modules() if isinstance(part, nn.Linear)][-1]
    with torch.no_grad():
        for parameter in final.parameters():
            parameter.div_(temperature)
    return layers


def without_bias(layer: nn.Linear, vectors: Tensor) -> nn.Linear:
    """A layer without a bias and nearly the logits of `layer` on vectors like these, (N, H).

    The bias b becomes b v' in the weights, where v is the direction in which all vectors have 1: least squares with a
    small ridge. How near it comes is what the check of the export measures.
    """
    if layer.bias is None:
        return layer
    width, square = vectors.shape[1], vectors.cpu().double()
    normal = square.T @ square + RIDGE * square.square().sum() / width * torch.eye(width, dtype=torch.float64)
    ones = torch.linalg.solve(normal, square.sum(dim=0)).float()  # (H,)
    plain = nn.Linear(width, layer.out_features, bias=False)
    with torch.no_grad():
        plain.weight.copy_(layer.weight + layer.bias[:, None] * ones)
    return plain


def sequence_classifier(portable: Portable, layer: nn.Linear, labels: LabelSpace) -> PreTrainedModel:
    """The classifier in transformers' class for its architecture, float32. Raises ConfigError where there is none that fits."""
    config = copy.deepcopy(portable.trunk.config)
    config.id2label = dict(enumerate(labels.names))
    config.label2id = {name: column for column, name in enumerate(labels.names)}
    config.num_labels = len(labels)
    config.problem_type = "multi_label_classification" if labels.multi else "single_label_classification"
    config.pad_token_id = padding_of(portable.tokenizer)
    kind = config.model_type
    try:
        with quiet():
            model = AutoModelForSequenceClassification.from_config(config)
    except (ValueError, AttributeError, KeyError) as error:
        raise ConfigError([f"model: transformers has no classifier for {kind}; export to onnx or openvino"]) from error
    trunk = getattr(model, model.base_model_prefix)
    own = trunk.state_dict()  # an encoder's pooler may be in one of them alone, and is not read
    weights = {
        name: value for name, value in portable.trunk.state_dict().items() if name in own or "pooler." not in name
    }
    trunk.load_state_dict(own | weights, strict=True)
    set_head(model, layer)
    return model.eval()


@torch.no_grad()
def set_head(model: Any, layer: nn.Linear) -> None:
    """Write the linear layer into the classifier's own head. Raises ConfigError on a head that cannot hold it."""
    parts: dict[str, Any] = dict(model.named_modules())
    width = torch.eye(layer.in_features)
    score, final = parts.get("score"), parts.get("classifier")
    pooler = next((one for name, one in parts.items() if re.search(r"(^|\.)pooler\.dense$", name)), None)
    if isinstance(score, nn.Linear) and score.bias is None and layer.bias is None:
        score.weight.copy_(layer.weight)
        return
    kind = model.config.model_type
    if isinstance(final, nn.Linear) and pooler is not None and kind == "bert":
        first, last = pooler, parts["classifier"]
    elif "classifier.dense" in parts and "classifier.out_proj" in parts and kind in ENCODERS[1:]:
        first, last = parts["classifier.dense"], parts["classifier.out_proj"]
    else:
        raise ConfigError(
            [
                f"model: transformers' classifier for {kind} puts layers of its own before the last one; export to onnx or openvino"
            ]
        )
    bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias
    first.weight.copy_(width * SMALL)
    first.bias.zero_()
    last.weight.copy_(layer.weight / SMALL)
    last.bias.copy_(bias)


def padding_or_zero(tokenizer: PreTrainedTokenizerBase) -> int:
    """`padding_of`, or 0 where any token will do because a mask says where a text ends."""
    try:
        return padding_of(tokenizer)
    except ConfigError:
        return 0


def padding_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token id for padding that no text ends with: transformers pools the last token that is not this one.

    The tokenizer's own, unless it ends every text too; then another special token, the unknown one last: it stands for what
    the vocabulary lacks.
    """
    ends = set(np.ravel(tokenizer("a")["input_ids"])[-1:].tolist())  # with a special token at the end, it is that one
    named: tuple[Any, ...] = (
        tokenizer.pad_token_id,
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        *(one for one in tokenizer.all_special_ids if one != tokenizer.unk_token_id),
        tokenizer.unk_token_id,
    )
    for one in named:
        if one is not None and one not in ends:
            return int(one)
    raise ConfigError(
        ["model: its tokenizer has no token for padding that texts do not end with; export to onnx or openvino"]
    )
