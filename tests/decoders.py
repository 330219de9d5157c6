"""Tiny models of many families of transformers, loud enough that no unit is without effect."""

from typing import Any

import torch

_PLAIN = {
    **{"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None},
}
_SHARED = {**_PLAIN, "num_key_value_heads": 2}
_OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 0, "eos_token_id": 0}
_OPT = {**_PLAIN, "ffn_dim": 44, "word_embed_proj_dim": 32, "pad_token_id": 1}
_FALCON = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_hidden_size": 44, "bias": False},
    **{"bos_token_id": 0, "eos_token_id": 0},
}
_GEMMA = {**_SHARED, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
_MIXTURE = {**_SHARED, "num_experts_per_tok": 2}

DENSE: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt1": ("OpenAIGPT", _OLD),
    "gpt2": ("GPT2", {**_OLD, "n_inner": 44}),
    "gptj": ("GPTJ", {**_OLD, "n_inner": 44, "rotary_dim": 4, "tie_word_embeddings": False}),
    "neox": ("GPTNeoX", {**_PLAIN, "use_parallel_residual": True}),
    "opt": ("OPT", _OPT),
    "opt, norm after": ("OPT", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}),
    "falcon, one key": ("Falcon", {**_FALCON, "multi_query": True}),
    "falcon, new": ("Falcon", {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True}),
    "falcon, one norm": (
        "Falcon",
        {**_FALCON, "num_kv_heads": 2, "new_decoder_architecture": True, "num_ln_in_parallel_attn": 1},
    ),
    "phi3": ("Phi3", _SHARED),
    "llama": ("Llama", {**_SHARED, "head_dim": 12, "attention_bias": True, "tie_word_embeddings": True}),
    "qwen2": ("Qwen2", _SHARED),
    "qwen3": ("Qwen3", {**_SHARED, "head_dim": 8}),
    "gemma1": ("Gemma", {**_SHARED, "head_dim": 8}),
    "gemma2": ("Gemma2", {**_GEMMA, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3Text", {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]}),
    "nemotron": ("Nemotron", {**_SHARED, "head_dim": 8}),
    "stablelm": ("StableLm", {**_SHARED, "use_qkv_bias": True, "qk_layernorm": True}),
    "olmo2": ("Olmo2", _SHARED),
    "granite": ("Granite", {**_SHARED, "embedding_multiplier": 6.0, "residual_multiplier": 0.3}),
}
"""Families with ordinary MLPs: a class of transformers without its ending, and entries of its configuration."""

MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {**_MIXTURE, "num_local_experts": 4}),
    "olmoe": ("Olmoe", {**_MIXTURE, "num_experts": 4}),
    "qwen3, mixture": (
        "Qwen3Moe",
        {**_MIXTURE, "head_dim": 8, "num_experts": 4, "moe_intermediate_size": 20, "mlp_only_layers": [0]},
    ),
}

FAMILIES = {**DENSE, **MIXTURES}


def configured(family: str, vocabulary: int) -> Any:
    """Return the configuration of a family's tiny model."""
    import transformers

    kind, settings = FAMILIES[family]
    return getattr(transformers, f"{kind}Config")(**settings, vocab_size=vocabulary)


@torch.no_grad()
def made(family: str, vocabulary: int) -> Any:
    """Return a model of transformers with loud weights, whose norms and biases are away from their defaults."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(configured(family, vocabulary), attn_implementation="eager").eval()
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias"):
                parameter.copy_(0.2 * noise)
            else:
                parameter.add_(0.2 * noise)
    return model
