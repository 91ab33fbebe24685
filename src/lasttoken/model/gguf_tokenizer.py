"""The tokenizer of a GGUF file: its vocabulary and special tokens, and the rules for cutting text that its name stands for.

A GGUF file names how text is cut before byte-pair merges (`tokenizer.ggml.pre`) but does not hold the rule. The rules
known here are those of the models' own tokenizer.json; a file with another name is refused rather than read wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from lasttoken.errors import ModelError
from lasttoken.model.gguf_header import INSTEAD, Header

GPT2, DIGITS = "gpt-2", "digits"  # the rule of GPT-2 alone; every digit by itself, then that rule
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS = {
    "gpt-2": GPT2, "phi-2": GPT2,
    "smollm": DIGITS, "starcoder": DIGITS, "refact": DIGITS,
    "llama-bpe": LLAMA3, "llama3": LLAMA3, "llama-v3": LLAMA3, "falcon3": LLAMA3,
    "qwen2": QWEN2, "deepseek-r1-qwen": QWEN2,
    "tekken": TEKKEN,
}  # fmt: skip
WHOLE = (LLAMA3, TEKKEN)  # a piece that is in the vocabulary is one token, whatever the merges say
BEGUN = ("llama-bpe", "llama3", "llama-v3", "falcon3")  # texts begin with BOS unless the file says otherwise
UNKNOWN, CONTROL, GIVEN = 2, 3, 4  # types of tokens; GIVEN: matched before anything else, but no special token
SPACE = "\u2581"  # a space in a vocabulary of sentencepiece


def read_tokenizer(header: Header) -> PreTrainedTokenizerFast:
    """The tokenizer of a GGUF file. Raises ModelError where it has none, or one whose rules are not known."""
    values = header.values
    kind, tokens = values.get("tokenizer.ggml.model"), values.get("tokenizer.ggml.tokens")
    if not tokens or kind is None:
        raise ModelError(f"model '{header.file}': no tokenizer in this GGUF file; {INSTEAD}")
    if kind == "gpt2":
        inner = byte_level(header, tokens)
    elif kind == "llama":
        inner = sentencepiece(header, tokens)
    else:
        raise ModelError(
            f"model '{header.file}': its vocabulary is of the kind {kind!r}, and gpt2 and llama (sentencepiece) are read; {INSTEAD}"
        )
    add_tokens(inner, tokens, values.get("tokenizer.ggml.token_type", ()))
    special = special_tokens(values, tokens)
    add_ends(inner, values, special, begun=kind == "llama" or values.get("tokenizer.ggml.pre") in BEGUN)
    whole = PreTrainedTokenizerFast(tokenizer_object=inner, **special)
    whole.chat_template = values.get("tokenizer.chat_template")
    return whole


def byte_level(header: Header, tokens: Sequence[str]) -> Tokenizer:
    """Byte-pair merges over the bytes of pieces that a rule of CUTS cuts."""
    name = header.values.get("tokenizer.ggml.pre", "(none)")
    if name not in CUTS:
        raise ModelError(
            f"model '{header.file}': its tokenizer cuts text up as {name!r} says, which is not among {', '.join(CUTS)}; {INSTEAD}"
        )
    cut = CUTS[name]
    merges = [tuple(pair.split(" ", 1)) for pair in header.values.get("tokenizer.ggml.merges", ())]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=cut in WHOLE))
    by_rule = cut in (GPT2, DIGITS)
    first: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cut == DIGITS else []
    first += [] if by_rule else [pre_tokenizers.Split(Regex(cut), behavior="isolated")]
    steps = [*first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=by_rule)]
    inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
    inner.decoder = decoders.ByteLevel()
    if cut == QWEN2:
        inner.normalizer = normalizers.NFC()
    return inner


def sentencepiece(header: Header, tokens: Sequence[str]) -> Tokenizer:
    """Byte-pair merges over characters, of a whole text; characters that are not in the vocabulary fall back to bytes."""
    scores = header.values.get("tokenizer.ggml.scores", ())
    if header.architecture.startswith("gemma"):  # their merges come in the order of the tokens, not of the scores
        scores = range(0, -len(tokens), -1)
    vocabulary = {token: number for number, token in enumerate(tokens)}
    ranks = dict(zip(tokens, scores, strict=True)) if len(scores) == len(tokens) else {}
    if not ranks:
        raise ModelError(f"model '{header.file}': no scores in its vocabulary of sentencepiece; {INSTEAD}")
    unknown = tokens[int(header.values.get("tokenizer.ggml.unknown_token_id", 0))]
    merges = sorted(pairs(vocabulary), key=lambda pair: -ranks["".join(pair)])  # stable: ties as in `pairs`
    inner = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    spaced = header.values.get("tokenizer.ggml.add_space_prefix", True)
    first = [normalizers.Prepend(SPACE)] if spaced else []
    inner.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    last = [decoders.Strip(" ", 1, 0)] if spaced else []
    inner.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    return inner


def pairs(vocabulary: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Every way to join two tokens of a vocabulary to a third; of one token, those of earlier tokens first."""
    for token in vocabulary:
        cuts = ((token[:place], token[place:]) for place in range(1, len(token)))
        here = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        yield from sorted(here, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def add_tokens(inner: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Tell `inner`, in place, the tokens that are matched in a text before it is cut."""
    for token, kind in zip(tokens, types, strict=False):
        if kind in (UNKNOWN, CONTROL):
            inner.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == GIVEN:
            inner.add_tokens([AddedToken(token, normalized=False)])


def special_tokens(values: Mapping[str, Any], tokens: list[str]) -> dict[str, str]:
    """bos_token, eos_token, unk_token and pad_token, as far as a file names them."""
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    ids = {name: values.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {
        f"{name}_token": tokens[number] for name, number in ids.items() if number is not None and number < len(tokens)
    }


def add_ends(inner: Tokenizer, values: Mapping[str, Any], special: Mapping[str, str], *, begun: bool) -> None:
    """Have `inner`, in place, begin texts with BOS and end them with EOS where the file says so. begun: BOS by default."""
    asked = {
        "bos": values.get("tokenizer.ggml.add_bos_token", begun),
        "eos": values.get("tokenizer.ggml.add_eos_token", False),
    }
    used = {name: special[f"{name}_token"] for name, wanted in asked.items() if wanted and f"{name}_token" in special}
    if used:
        shape = " ".join([*([used["bos"]] if "bos" in used else []), "$A", *([used["eos"]] if "eos" in used else [])])
        ids = [(token, inner.token_to_id(token)) for token in set(used.values())]
        inner.post_processor = processors.TemplateProcessing(single=shape, special_tokens=ids)
