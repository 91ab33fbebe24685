"""Random toy models of every text architecture of transformers' auto mappings, built from its own config class.

Configs keep their default values except for sizes: one table of names shrinks them, and OVERRIDES holds the rest.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any, Literal
from zlib import crc32

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

CAUSAL = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
MASKED = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
ENCODING = modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES
TYPES = tuple(sorted({*CAUSAL, *MASKED, *ENCODING}))
AUDIO = {"moshi", "musicgen", "musicgen_melody", "whisper"}  # encoder-decoders whose text part is the decoder
# AutoModelForCausalLM has no config for what it saves of them, nor finds Emu3's text weights in the whole model's file;
# AutoModel reads that file, and its get_decoder() is the text model
WHOLE = {"emu3", "mllama"}
DRAFT = "a draft head: reads hidden states and keys of another model, not tokens"
CODES = (
    "reads audio codes, not text; AutoModelForCausalLM gives its decoder the whole model's config (transformers' bug)"
)
BROKEN: dict[str, str] = {
    "gemma3n": "its vision tower needs the package timm",
    "gemma4_assistant": DRAFT,
    "gemma4_unified_assistant": DRAFT,
    "mra": "its attention is a CUDA kernel from the package kernels, and returns zeros without it",
    "musicgen": CODES,
    "musicgen_melody": CODES,
    "perceiver": "AutoModel takes embedded inputs and returns latents, not a state for each token",
}

# toy values of sizes, with the names of those sizes; smaller values stay
SIZES = {
    256: "max_position_embeddings n_positions n_ctx max_seq_len model_max_length context_length max_target_positions",
    128: """intermediate_size n_inner d_inner d_ff dff dim_ff ffn_dim hidden_dim encoder_ffn_dim decoder_ffn_dim
        ffn_hidden_size feed_forward_size intermediate_size_mlp dense_intermediate_size""",
    64: """hidden_size d_model n_embd dim emb_dim embed_dim lru_width attention_hidden_size word_embed_proj_dim
        out_hidden_size embedding_dim adapter_in_dim adapter_out_dim adapter_input_size downsample_hidden_size
        output_channels mlp_dim nemo_conv_channels ext_pw_out_channel depthwise_separable_out_channel
        hidden_size_global""",
    32: """moe_intermediate_size shared_expert_intermediate_size shared_experts_intermediate_size
        shared_intermediate_size expert_ffn_hidden_size moe_shared_expert_intermediate_size embedding_size
        input_embedding_size output_embedding_size intra_bottleneck_size max_2d_position_embeddings image_size
        crop_size codebook_size base_channels num_landmarks segment_means_seq_len""",
    24: "qk_head_dim",
    16: """index_n_heads head_dim d_kv d_head dim_head attention_head_size linear_head_dim linear_key_head_dim linear_value_head_dim
        qk_nope_head_dim v_head_dim kv_lora_rank q_lora_rank o_lora_rank index_head_dim kv_channels swa_head_dim
        state_size mamba_d_state ssm_state_size mamba_head_dim entity_emb_size shape_embed_dim
        pronunciation_embed_dim router_hidden_size hidden_size_per_layer_input embedding_rank
        num_position_embeddings""",
    8: """qk_rope_head_dim rotary_dim chunk_size mamba_chunk_size index_topk attention_chunk_size mamba_num_heads
        patch_size hc_lowrank adapter_rank laurel_rank gated_norm_rank""",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads
        num_encoder_attention_heads num_decoder_attention_heads linear_num_heads linear_num_value_heads
        swa_num_attention_heads num_experts num_local_experts n_routed_experts moe_num_experts
        sliding_window sliding_window_size local_attention attention_window_size local_attention_window_len window_size
        num_attention_heads_per_layer mamba_dt_rank time_step_rank""",
    2: """num_key_value_heads num_kv_heads linear_num_key_heads swa_num_key_value_heads num_experts_per_tok moe_topk moe_k
        num_experts_per_token num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers
        num_encoder_layers num_decoder_layers num_blocks n_groups""",
    1: "n_group topk_group num_expert_group depth first_k_dense_replace num_dense_layers num_global_layers",
}
SMALL = {name: size for size, names in SIZES.items() for name in names.split()}
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
VOCABULARIES = ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size", "shape_vocab_size")
VOCABULARIES += ("pronunciation_vocab_size", "entity_vocab_size", "encoder_hash_byte_group_vocab")
IDS = {"bos_token_id": 0, "cls_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4}
MAMBA2 = {"mamba_n_heads": 4, "mamba_d_head": 32}
SWA = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "head_dim": 24}
SWA |= {"qk_nope_head_dim": 16, "v_head_dim": 16, "qk_rope_head_dim": 8}
DOTS3 = {f"swa_{name}": value for name, value in SWA.items()} | {"head_dim": 24}
QWEN4 = {"indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8}
QWEN4 |= {"indexer_compress_ratio": 4, "ngram_vocab_size_base": 50, "split_ngram_parts": 2, "hc_lowrank": 8}
QWEN4 |= {"ple_embed_dim": 64, "ple_layer_ids": [1], "make_ngram_vocab_size_divisible_by": 8}
GEMMA3N = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2}
GEMMA3N |= {"activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0], "intermediate_size": [128] * 4}
GEMMA3N |= {"num_kv_shared_layers": 2}
GEMMA4 = {"global_head_dim": 32}
FULL_SLIDING = {"layer_types": ["full_attention", "sliding_attention"]}
FUNNEL = {"architectures": ["FunnelModel"], "block_sizes": [1, 1], "block_repeats": [1, 1]}
REFORMER = {"attn_layers": ["local", "lsh"], "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "hash_seed": 0}
REFORMER |= {"axial_pos_shape": (16, 16), "axial_pos_embds_dim": (16, 48), "axial_norm_std": 0.1}
NARROW = {"hidden_size": 32}
ZAMBA = {"layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA2, "attn_layer_indices": [1]},
    "bert-generation": {"is_decoder": True},
    # its config has no num_hidden_layers, which its cache asks for
    "blt": {"use_cache": False, "encoder_config": NARROW, "decoder_config": NARROW},
    "cohere_compass_text": {  # its default has positions for no kind of layer
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {"sliding_attention": {**ROPE, "mrope_section": [4, 2, 2]}, "full_attention": None},
    },
    "cpmant": {"init_std": 0.02},
    "dbrx": {  # its default lacks rope_theta, and clamps to None
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "deepseek_v4": {
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8},
        "o_groups": 2,
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note": {"text_config": DOTS3},
    "dots3_note_text": DOTS3,
    "emu3": {  # its default has no map
        "vocabulary_map": {"<image>": 1, "<|extra_200|>": 1},
        "vq_config": {"channel_multiplier": [1, 1], "num_res_blocks": 1},
    },
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {**MAMBA2, "mamba_d_ssm": 128},
    "flint": {"mlp_only_layers": [0]},
    "funnel": FUNNEL,  # AutoModel chooses among its classes by `architectures`
    "gemma3n_text": GEMMA3N,
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": GEMMA4},
    "gemma4_unified_text": GEMMA4,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {**MAMBA2, "layer_types": ["linear_attention", "full_attention"]},
    "hrm_text": {"num_layers_per_stack": None},
    "jamba": {"num_hidden_layers": 3, "attn_layer_period": 4, "attn_layer_offset": 2},
    "laguna": FULL_SLIDING,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "longcat_flash": {"head_dim": 8, "zero_expert_num": 2},
    "longformer": {"attention_window": 8},
    "mamba2": {"num_heads": 8},
    "marian": {"scale_embedding": True},  # else its positions are much larger than its tokens
    "mellum": FULL_SLIDING,
    "minimax": {"block_size": 8},
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "mllama": {
        "text_config": {"num_hidden_layers": 3, "cross_attention_layers": [1]},
        "vision_config": {"vision_output_dim": 384},
    },
    "pegasus": {"scale_embedding": True},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": REFORMER,
    "squeezebert": {"embedding_size": 64},
    "xlstm": {"qk_dim_factor": 1.0},  # its cache rounds the size of keys up to 64, its layers do not
    "xmod": {"default_language": "en_XX"},
    "zamba": {**ZAMBA, "attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": ZAMBA,
}
KEPT = re.compile("A_log|dt_bias|dt_proj|time_")  # decays of state-space layers, as drawn


def role(model_type: str) -> Literal["decoder", "encoder"]:
    """`decoder`: loaded by AutoModelForCausalLM. `encoder`: by AutoModel, as are encoder-decoders and WHOLE."""
    pair = CONFIG_MAPPING[model_type].is_encoder_decoder and model_type not in AUDIO
    return "encoder" if pair or model_type not in CAUSAL or model_type in {*MASKED, *WHOLE} else "decoder"


def toy_config(model_type: str, vocab: int) -> PretrainedConfig:
    """The architecture's config with toy sizes and `vocab` tokens, of which 0, 1 and 2 are BOS, padding and EOS."""
    return shrink(AutoConfig.for_model(model_type), vocab, OVERRIDES.get(model_type, {}))


def shrink(config: PretrainedConfig, vocab: int, exact: dict[str, Any]) -> PretrainedConfig:
    """A new config of the same class: known sizes are small, nested configs too, values of `exact` as they are there."""
    values = vars(config)
    depth, kept = depth_of(values), layers(values)
    new: dict[str, Any] = {}
    for name in (field.name for field in fields(config)):
        key = config.attribute_map.get(name, name)
        if key not in values:
            continue
        value = values[key]
        if isinstance(value, PretrainedConfig):
            new[name] = shrink(value, vocab, exact.get(name, {}))
        elif name in exact:
            new[name] = exact[name]
        elif name in DEPTHS:
            new[name] = len(kept)
        elif isinstance(value, list) and value == list(range(depth)):  # indices of layers
            new[name] = list(range(len(kept)))
        elif isinstance(value, list) and len(value) == depth:
            new[name] = [smaller(name, value[layer], vocab) for layer in kept]
        else:
            new[name] = smaller(name, value, vocab)
    if "kv_lora_rank" in new:  # latent attention, which has no groups
        new["num_key_value_heads"] = new["num_attention_heads"]
    return type(config)(**{**exact, **new})


def depth_of(values: dict[str, Any]) -> int:
    """Number of layers by a config's values, 0 if they do not say."""
    return next((values[name] for name in DEPTHS if name in values), 0)


def layers(values: dict[str, Any]) -> list[int]:
    """The first layer of each kind that a config's lists tell apart; the first two if there is one kind."""
    depth = depth_of(values)
    lists = [v for v in values.values() if isinstance(v, list) and len(v) == depth and v != list(range(depth))]
    kinds = list(zip(*lists, strict=True))
    first = [layer for layer, kind in enumerate(kinds) if kind not in kinds[:layer]]
    return first if len(first) > 1 else list(range(min(depth, 2)))


def smaller(name: str, value: Any, vocab: int) -> Any:
    """The toy value of a config's attribute."""
    if name in VOCABULARIES:
        return vocab
    if name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        return IDS[name]
    if name.endswith(("_token_id", "_token_index")) and value is not None:
        return IDS.get(name, 1)  # no token of a text stands for an image
    if name in ("head_dim", "num_key_value_heads") and value is None:
        return SMALL[name]
    if name in SMALL and type(value) is int:
        return min(value, SMALL[name])
    return value


def toy_model(model_type: str, vocab: int) -> PreTrainedModel:
    """The architecture's random float32 model in eval mode, always with the same weights, drawn as `tiny` draws them."""
    config = toy_config(model_type, vocab)
    torch.manual_seed(crc32(model_type.encode()))
    auto = AutoModelForCausalLM if role(model_type) == "decoder" else AutoModel
    model = auto.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if KEPT.search(name) and parameter.any():
                continue
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
            elif parameter.any():
                parameter.mul_(4)
            else:
                parameter.normal_(std=0.1)
    return model.eval()
