"""Tiny random models of many families of decoders, loud enough that no unit is without effect."""

from pathlib import Path
from typing import Any

import torch

WORDS = 2048
"""Tokens of the embedded model's tokenizer, which all of these share."""

_PLAIN = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 44,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_SHARED = {**_PLAIN, "num_key_value_heads": 2}
_OLD = {"vocab_size": WORDS, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}
_OPT = {**_PLAIN, "ffn_dim": 44, "word_embed_proj_dim": 32, "pad_token_id": 1}
_FALCON = {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "bias": False}
_SLIDING = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "sliding_window": 8}
_GEMMA = {**_SHARED, "head_dim": 8}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-1": ("OpenAIGPT", _OLD),
    "GPT-2": ("GPT2", {**_OLD, **_ENDS}),
    "GPT-2, other width": ("GPT2", {**_OLD, **_ENDS, "n_inner": 44}),
    "GPT-BigCode": ("GPTBigCode", {**_OLD, **_ENDS, "n_inner": 44}),
    "GPT-J": ("GPTJ", {**_OLD, **_ENDS, "n_inner": 44, "rotary_dim": 4, "tie_word_embeddings": False}),
    "CodeGen": ("CodeGen", {**_OLD, **_ENDS, "n_inner": 44, "rotary_dim": 4, "tie_word_embeddings": False}),
    "GPT-Neo": (
        "GPTNeo",
        {
            **{"vocab_size": WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 44},
            **{
                "max_position_embeddings": 128,
                "attention_types": [[["global", "local"], 1]],
                "window_size": 8,
                **_ENDS,
            },
        },
    ),
    "GPT-NeoX, parallel": ("GPTNeoX", {**_PLAIN, "use_parallel_residual": True}),
    "GPT-NeoX, sequential": ("GPTNeoX", {**_PLAIN, "use_parallel_residual": False}),
    "OPT": ("OPT", _OPT),
    "OPT, norm after": ("OPT", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "XGLM": (
        "XGLM",
        {
            **{"vocab_size": WORDS, "d_model": 32, "ffn_dim": 44, "num_layers": 3, "attention_heads": 4},
            **{"max_position_embeddings": 128, **_ENDS},
        },
    ),
    "Bloom": ("Bloom", {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 3, "n_head": 4, **_ENDS}),
    "Falcon, one key": ("Falcon", {**_FALCON, **_ENDS, "ffn_hidden_size": 44, "multi_query": True}),
    "Falcon, new": (
        "Falcon",
        {**_FALCON, **_ENDS, "ffn_hidden_size": 44, "num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "MPT": (
        "Mpt",
        {"vocab_size": WORDS, "d_model": 32, "n_layers": 3, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 128},
    ),
    "Phi-1.5, Phi-2": ("Phi", {**_PLAIN, "partial_rotary_factor": 0.5}),
    "Phi-3": ("Phi3", _SHARED),
    "Llama, untied": ("Llama", {**_SHARED, "tie_word_embeddings": False}),
    "Llama, tied": ("Llama", {**_SHARED, "tie_word_embeddings": True}),
    "Llama, no shared keys": ("Llama", {**_PLAIN, "num_key_value_heads": 4}),
    "Llama, biases": ("Llama", {**_SHARED, "attention_bias": True, "mlp_bias": True}),
    "Llama, wide heads": ("Llama", {**_SHARED, "head_dim": 12}),
    "SmolLM3": ("SmolLM3", {**_SHARED, "no_rope_layers": [1, 1, 0]}),
    "Arcee": ("Arcee", _SHARED),
    "Apertus": ("Apertus", _SHARED),
    "Mistral": ("Mistral", {**_SHARED, "sliding_window": 8}),
    "Ministral 3": ("Ministral3", {**_SHARED, "head_dim": 8}),
    "Qwen 2": ("Qwen2", _SHARED),
    "Qwen 3": ("Qwen3", {**_SHARED, "head_dim": 8}),
    "Gemma 1": ("Gemma", _GEMMA),
    "Gemma 2": (
        "Gemma2",
        {
            **{**_GEMMA, "query_pre_attn_scalar": 8, "sliding_window": 8},
            **{"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0},
        },
    ),
    "Gemma 3": ("Gemma3Text", {**_GEMMA, "query_pre_attn_scalar": 8, **_SLIDING}),
    "VaultGemma": ("VaultGemma", {**_GEMMA, "query_pre_attn_scalar": 8, **_SLIDING}),
    "Granite": (
        "Granite",
        {
            **{**_SHARED, "embedding_multiplier": 6.0, "residual_multiplier": 0.3},
            **{"attention_multiplier": 0.2, "logits_scaling": 4.0},
        },
    ),
    "StableLM": ("StableLm", {**_SHARED, "use_qkv_bias": True, "partial_rotary_factor": 0.5}),
    "StableLM, normalised keys": ("StableLm", {**_SHARED, "qk_layernorm": True, "partial_rotary_factor": 0.5}),
    "StarCoder 2": ("Starcoder2", _SHARED),
    "OLMo": ("Olmo", {**_SHARED, "clip_qkv": 0.5}),
    "OLMo 2": ("Olmo2", _SHARED),
    "OLMo 3": ("Olmo3", {**_SHARED, **_SLIDING}),
    "Cohere": ("Cohere", _SHARED),
    "Cohere 2": ("Cohere2", {**_SHARED, **_SLIDING}),
    "GLM": ("Glm", {**_SHARED, "head_dim": 8}),
    "GLM 4": ("Glm4", {**_SHARED, "head_dim": 8}),
    "Nemotron": ("Nemotron", _SHARED),
    "EXAONE 4": ("Exaone4", {**_SHARED, **_SLIDING}),
    "ERNIE 4.5": ("Ernie4_5", {**_SHARED, "head_dim": 8}),
    "Seed-OSS": ("SeedOss", {**_SHARED, "head_dim": 8}),
    "Hunyuan": ("HunYuanDenseV1", {**_SHARED, "head_dim": 8}),
    "Mixtral": ("Mixtral", {**_SHARED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "OLMoE": ("Olmoe", {**_SHARED, "num_experts": 4, "num_experts_per_tok": 2}),
    "Qwen 3, mixture": (
        "Qwen3Moe",
        {
            **{**_SHARED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 20, "mlp_only_layers": [0]},
        },
    ),
    "Granite, mixture": ("GraniteMoe", {**_SHARED, "num_local_experts": 4, "num_experts_per_tok": 2}),
}


def make(family: str, folder: Path, *, seed: int = 0) -> None:
    """Write a tiny model of a family, with the embedded model's tokenizer, as transformers saves it.

    Raises:
        ValueError: if there is no such family.
    """
    import transformers

    from skilloc.models.language import EMBEDDED

    if family not in FAMILIES:
        raise ValueError(f'unknown `family` "{family}"; there are {", ".join(FAMILIES)}')
    kind, settings = FAMILIES[family]
    config = getattr(transformers, f"{kind}Config")(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    make_loud(model, seed=seed)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(EMBEDDED).save_pretrained(folder)


@torch.no_grad()
def make_loud(model: torch.nn.Module, *, seed: int) -> None:
    """Give all matrices entries of about 1/sqrt(inputs), and move norms and biases away from their defaults."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        elif name.endswith("bias"):
            parameter.copy_(0.2 * noise)
        else:
            parameter.add_(0.2 * noise)
