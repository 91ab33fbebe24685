"""Random models of many architectures, a few hundred kilobytes each, with a tokenizer trained on the spot.

Nothing is downloaded: configs and weights are made here, saved to a folder, and loaded by the package's own code.
Every vector (norms, biases) is drawn at random too, so that none of them can be left out unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GptOssConfig,
    JambaConfig,
    Llama4TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    ModernBertConfig,
    MptConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    RobertaConfig,
    SiglipVisionConfig,
    SmolLM3Config,
    T5Config,
)

from lasttoken.data.dataset import Dataset
from lasttoken.labels import LabelSpace

WORDS = {
    "music": ["guitar", "song", "band", "melody", "drums", "concert", "choir", "piano"],
    "sport": ["goal", "match", "team", "player", "score", "league", "coach", "stadium"],
    "trade": ["market", "price", "shares", "profit", "bank", "bond", "dollar", "exports"],
}
BOS, PAD, EOS = "<s>", "<pad>", "</s>"
CHAT = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}[/]{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
WINDOW = 256  # tokens each model is made for
Pad = Literal["own", "eos", "none"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 12 words, from all topics."""
    rng = np.random.default_rng(seed)
    words = sorted(word for topic in WORDS.values() for word in topic)
    return [" ".join(rng.choice(words, rng.integers(1, 13))) for _ in range(count)]


def dataset(rows: int, *, multi: bool = False, seed: int = 0) -> Dataset:
    """Texts made of the words of their labels, which any method can learn; three labels, all of them present."""
    labels = LabelSpace(tuple(sorted(WORDS)), multi)
    rng = np.random.default_rng(seed)
    targets = np.eye(3, dtype=bool)[np.arange(rows) % 3]
    if multi:
        targets |= rng.random((rows, 3)) < 0.3
        targets[-1] = False
    texts = []
    for row in targets:
        pool = [word for j in np.flatnonzero(row) for word in WORDS[labels.names[j]]] or ["the", "of", "and"]
        texts.append(" ".join(rng.choice(pool, rng.integers(3, 9))))
    return Dataset([str(i) for i in range(rows)], texts, targets if multi else targets.argmax(axis=1), labels)


def make_tokenizer(
    *, pad: Pad = "own", bos: bool = True, chat: bool = False, encoder: bool = False
) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 300 tokens. pad: a token of its own, the end-of-text token, or none. encoder: <s> text </s>."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[BOS, PAD, EOS], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["Classify the text into one of these labels", *sentences(200)], trainer)
    if encoder or bos:
        ids = [(BOS, inner.token_to_id(BOS)), (EOS, inner.token_to_id(EOS))]
        shape = f"{BOS} $A {EOS}" if encoder else f"{BOS} $A"
        inner.post_processor = processors.TemplateProcessing(single=shape, special_tokens=ids)
    special = {"eos_token": EOS, **({"bos_token": BOS} if encoder or bos else {})}
    special |= {"cls_token": BOS, "sep_token": EOS} if encoder else {}
    special |= {"own": {"pad_token": PAD}, "eos": {"pad_token": EOS}, "none": {}}[pad]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=WINDOW, **special)
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 16}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 128, "n_positions": WINDOW}
MIXED = {
    **GROUPED,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 16,
}
EYES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 8,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": WINDOW // 2,
}
OPT = {"hidden_size": 64, "word_embed_proj_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {  # keys and values have different widths
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 2,
}
JAMBA = {
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "use_mamba_kernels": False,
}
LLAMA4 = {
    "intermediate_size_mlp": 128,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "attention_chunk_size": 8,
    "no_rope_layers": [1, 0],
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
MODERN = {**SHAPE, "local_attention": 4, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2}
FEATURES = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 4}

Maker = Callable[[dict[str, Any]], PretrainedConfig]
DECODERS: dict[str, Maker] = {
    "llama": lambda ids: LlamaConfig(**GROUPED, **ids),
    "qwen3": lambda ids: Qwen3Config(**GROUPED, **ids),
    "mistral": lambda ids: MistralConfig(**GROUPED, sliding_window=4, **ids),
    "gemma3": lambda ids: Gemma3TextConfig(**MIXED, **ids),
    "gemma2": lambda ids: Gemma2Config(**MIXED, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, **ids),
    "gpt2": lambda ids: GPT2Config(**GPT2, **ids),
    "gpt-neox": lambda ids: GPTNeoXConfig(**SHAPE, **ids),
    "phi3": lambda ids: Phi3Config(**SHAPE, original_max_position_embeddings=WINDOW, **ids),
    "opt": lambda ids: OPTConfig(**OPT, **ids),
    "olmo2": lambda ids: Olmo2Config(**SHAPE, **ids),
    "smollm3": lambda ids: SmolLM3Config(**SHAPE, num_key_value_heads=2, no_rope_layers=[1, 0], **ids),
    "gpt-oss": lambda ids: GptOssConfig(**{**MIXED, "query_pre_attn_scalar": None}, **EXPERTS, **ids),
    "deepseek-v3": lambda ids: DeepseekV3Config(**SHAPE, num_key_value_heads=4, **LATENT, **ids),
}
LIMITED: dict[str, Maker] = {  # made for fewer tokens than its config's window
    "phi3-longrope": lambda ids: Phi3Config(
        **SHAPE, original_max_position_embeddings=WINDOW // 2, rope_parameters=LONGROPE, **ids
    ),
}
WIDTHS: dict[str, Maker] = {  # a width that is no multiple of 64, the block of 4-bit weights
    "llama-96": lambda ids: LlamaConfig(**{**SHAPE, "hidden_size": 96, "intermediate_size": 160}, **ids),
}
NESTED: dict[str, Maker] = {  # the sizes of the text model live in `text_config`
    "gemma3-nested": lambda ids: Gemma3Config(
        text_config={**MIXED, **ids}, vision_config=SiglipVisionConfig(**EYES).to_dict(), mm_tokens_per_image=4
    ),
}
ENCODERS: dict[str, Maker] = {
    "bert": lambda ids: BertConfig(**SHAPE, **ids),
    "modernbert": lambda ids: ModernBertConfig(**MODERN, **ids),
    "roberta": lambda ids: RobertaConfig(**SHAPE, **{**ids, "max_position_embeddings": WINDOW + 2}),
}
SPARSE: dict[str, Maker] = {  # a few of several experts see a token
    "qwen3-moe": lambda ids: Qwen3MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32, **ids
    ),
}
REPEATED: dict[str, Maker] = {  # encoders that run one block several times
    "albert": lambda ids: AlbertConfig(**SHAPE, embedding_size=32, **ids),
}
PADDED: dict[str, Maker] = {  # packing is not exact for them
    "mamba": lambda ids: MambaConfig(hidden_size=64, num_hidden_layers=2, **without_window(ids)),
    "falcon": lambda ids: FalconConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, **ids),
    "falcon-alibi": lambda ids: FalconConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, alibi=True, **ids
    ),
    "bloom": lambda ids: BloomConfig(hidden_size=64, n_layer=2, n_head=4, **without_window(ids)),
    "mpt": lambda ids: MptConfig(d_model=64, n_layers=2, n_heads=4, max_seq_len=WINDOW, **without_window(ids)),
    "jamba": lambda ids: JambaConfig(**GROUPED, **JAMBA, **ids),
    "llama4": lambda ids: Llama4TextConfig(**GROUPED, **LLAMA4, **ids),
    "qwen3.5": lambda ids: Qwen3_5TextConfig(**GROUPED, **LINEAR, **ids),
}
PAIRED: dict[str, Maker] = {  # encoder-decoders
    "t5": lambda ids: T5Config(**FEATURES, decoder_start_token_id=1, **without_window(ids)),
}
MAKERS = DECODERS | LIMITED | WIDTHS | NESTED | ENCODERS | SPARSE | REPEATED | PADDED | PAIRED


def without_window(ids: dict[str, Any]) -> dict[str, Any]:
    """Config values for models that have no positions."""
    return {name: value for name, value in ids.items() if name != "max_position_embeddings"}


def write_model(name: str, folder: Path, *, pad: Pad = "own", bos: bool = True, chat: bool = False) -> Path:
    """`folder`, filled with a random float32 model of the architecture `name` and its tokenizer."""
    tokenizer = make_tokenizer(pad=pad, bos=bos, chat=chat, encoder=name in ENCODERS | REPEATED)
    ids = {"vocab_size": len(tokenizer), "max_position_embeddings": WINDOW}
    ids |= {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    kind = AutoModel if name in ENCODERS | REPEATED else AutoModelForSeq2SeqLM if name == "t5" else AutoModelForCausalLM
    torch.manual_seed(crc32(name.encode()))  # a model that is added changes no other
    config = MAKERS[name](ids)
    model = kind.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            else:
                parameter.mul_(4)  # 0.02 would leave hidden states that hardly depend on the text before them
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
