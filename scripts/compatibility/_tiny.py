"""Tiny models with random weights, one for each family that is tried."""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

D_MODEL, D_MLP, VOCAB = 16, 24, 40

# What the sizes are called in one configuration or another; names that it lacks are left out.
_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), D_MODEL),
    **dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "decoder_ffn_dim"), D_MLP),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads"), 2),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 64),
    "num_key_value_heads": 1,
    "hidden_size_per_layer_input": 4,
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "mamba_chunk_size"), 8),
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_N_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")

_HEADS_OF_8 = {"head_dim": 8}
_LATENT = {
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
_MAMBA = {
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 4,
    "mamba_n_groups": 1,
}
_GRANITE_4 = {
    **_MAMBA,
    "num_local_experts": 0,
    "shared_intermediate_size": D_MLP,
    "residual_multiplier": 0.3,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 2.0,
    "logits_scaling": 3.0,
}
_VISION = {
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 8,
    }
}

# Family -> what its configuration has that `_SIZES` does not say. What follows a space in a name
# tells two forms of one family apart.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"mlp_bias": True},
    "mistral": {"sliding_window": None},
    "qwen3": _HEADS_OF_8,
    "gemma": _HEADS_OF_8,
    "phi3": {},
    "gpt2": {},
    "opt": {},
    "gpt_neox": {},
    # BLOOM has no width of its own for the MLP: always 4 d_model.
    "bloom": {},
    "apertus": {},
    "arcee": {"mlp_bias": True},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bart": {"encoder_layers": 2},
    "biogpt": {},
    "bitnet": {},
    "codegen": {"n_head": 4, "rotary_dim": 4, "n_ctx": 64},
    "cohere": {},
    "cohere2": {},
    "cwm": {**_HEADS_OF_8, "bos_token_id": 1},
    "diffllama": {"num_key_value_heads": 2},
    "ernie4_5": _HEADS_OF_8,
    "exaone4": {"sliding_window": 4},
    "falcon": {"new_decoder_architecture": False, "parallel_attn": True},
    "falcon sequential": {"parallel_attn": False, "bias": True, "alibi": True},
    "falcon_h1": {
        "mlp_multipliers": [0.7, 0.6],
        "mamba_d_ssm": 16,
        "mamba_n_heads": 4,
        "mamba_d_head": 4,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
    },
    "fuyu": {},
    "gemma2": {**_HEADS_OF_8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
    "gemma3_text": {**_HEADS_OF_8, "sliding_window": 4},
    "gemma3": {**_HEADS_OF_8, **_VISION},
    "gemma3n_text": {
        "num_kv_shared_layers": 0,
        **_HEADS_OF_8,
        "activation_sparsity_pattern": [0.5, 0.0],
        "laurel_rank": 4,
    },
    "gemma4_text": _HEADS_OF_8,
    "gemma4": _HEADS_OF_8,
    "gemma4_unified": _HEADS_OF_8,
    "glm": _HEADS_OF_8,
    "glm4": _HEADS_OF_8,
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gpt_neox_japanese": {},
    "gptj": {"rotary_dim": 4},
    "granite": {
        "residual_multiplier": 0.3,
        "attention_multiplier": 0.2,
        "embedding_multiplier": 2.0,
        "logits_scaling": 3.0,
    },
    "granite_swa": {},
    "granitemoehybrid": {**_GRANITE_4, "layer_types": ["attention", "attention"]},
    "granitemoehybrid mamba": {**_GRANITE_4, "layer_types": ["mamba", "attention"]},
    "helium": _HEADS_OF_8,
    "hunyuan_v1_dense": _HEADS_OF_8,
    "hyperclovax": {},
    "jais2": {},
    "minicpm3": _LATENT,
    "ministral": _HEADS_OF_8,
    "ministral3": _HEADS_OF_8,
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmo_hybrid": {},
    "openai-gpt": {},
    "persimmon": {},
    "phi": {},
    "qwen2": {},
    "qwen3_5": {**_HEADS_OF_8, "layer_types": ["linear_attention", "full_attention"]},
    "seed_oss": {**_HEADS_OF_8, "residual_dropout": 0.2},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {"residual_dropout": 0.2},
    "trocr": {},
    "vaultgemma": _HEADS_OF_8,
    "xglm": {},
    # transformers sets the row of the padding token to zero when it loads this family.
    "youtu": {**_LATENT, "pad_token_id": None},
}

# Families that are refused: mixtures of experts, encoders, and blocks whose MLP is not
# down(act(gate x) * (up x)) or down(act(up x)) with a module for each of its parts.
REFUSED = (
    "mixtral",
    "qwen3_moe",
    "bert",
    "ctrl",
    "lfm2",
    "mamba",
    "moshi",
    "prophetnet",
    "recurrent_gemma",
    "rwkv",
)


def tiny_config(family: str, *, n_layers: int = 2) -> Any:
    """Return the configuration of a tiny model: one of `FAMILIES`, or any `model_type`."""
    outer = CONFIG_MAPPING[family.split()[0]]
    given = dict(FAMILIES.get(family, {}))
    parts = {name: given.pop(name) for name in list(given) if name in outer.sub_configs}
    text = type(AutoConfig.for_model(family.split()[0]).get_text_config())
    sizes = {**_SIZES, **dict.fromkeys(_N_LAYERS, n_layers)}
    known = [name for name in inspect.signature(text).parameters if name not in text.attribute_map]
    config = text(**{name: sizes[name] for name in known if name in sizes} | given)
    return config if text is outer else outer(text_config=config.to_dict(), **parts)


def tiny_hf(family: str, *, seed: int = 0, n_layers: int = 2) -> Any:
    """Build a model whose weights are large enough that biases, gates and attention all matter."""
    torch.manual_seed(seed)
    hf = AutoModelForCausalLM.from_config(
        tiny_config(family, n_layers=n_layers), attn_implementation="eager"
    )
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.3)
    return hf.eval()
