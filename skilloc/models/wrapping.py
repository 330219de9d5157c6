"""Wrap a model of transformers in a `TransformerBridge`, and mend what transformer-lens gets wrong about it."""

import copy
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.reading import quiet


def wrapped(model: Any, name: str, *, tokenizer: Any = None) -> Any:
    """Return a bridge around a model of transformers, in evaluation mode; it shares the model's weights.

    Args:
        model: a decoder of transformers, with eager attention.
        name: what messages call it.
        tokenizer: the model's tokenizer; it is copied, since a bridge adds tokens to the one it gets.

    Raises:
        ValueError: if transformer-lens has no bridge for the architecture, or one that does not fit this model.
    """
    kind = type(model).__name__
    run_experts(model)
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.init_kwargs["add_bos_token"] = True  # or the bridge would read it from its source once more
        tokenizer.init_kwargs.setdefault("name_or_path", "")  # which one that was made in memory has not
    # Importing transformer-lens turns warnings off for good; here, they come back. Projections that it splits off have
    # initial values first, which take random numbers.
    with quiet(), torch.random.fork_rng(devices=[]):
        from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        # transformers has changed the capitals of some names (PhiMoE).
        known = next((name for name in SUPPORTED_ARCHITECTURES if name.lower() == kind.lower()), kind)
        try:
            bridge = build_bridge_from_module(
                model,
                known,
                hf_config=_config_for(model),
                tokenizer=tokenizer,
                model_name=name,
                post_adapter_hook=_mended,
            )
        except ValueError as error:
            raise WrongValue(
                f'"{name}" is a {kind}, which transformer-lens cannot wrap; open a decoder such as Llama or GPT-2'
            ) from error
        except (RuntimeError, AttributeError, TypeError, KeyError) as error:
            # Its adapter expects other sizes or modules than this configuration gives.
            said = str(error).strip().partition("\n")[0][:160]
            raise WrongValue(
                f'"{name}" is a {kind} in a form that transformer-lens does not wrap ({said}); open another form of '
                "it, or a decoder such as Llama or GPT-2"
            ) from error
    return bridge.eval()


def run_experts(model: Any) -> None:
    """Let experts run one after another where torch has no grouped products of their sizes."""
    experts = [parameter for name, parameter in model.named_parameters() if "experts" in name and parameter.ndim == 3]
    if any(one.shape[-1] * one.element_size() % 16 for one in experts) and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")


def _config_for(model: Any) -> Any:
    """Return the configuration that a bridge is made for."""
    config = model.config
    if config.model_type == "falcon" and config.new_decoder_architecture and config.multi_query:
        # This form has several keys whatever `multi_query` says, and the adapter would believe it.
        config = copy.deepcopy(config)
        config.multi_query = False
    return config


def _mended(adapter: Any) -> None:
    if type(adapter).__name__ != "FalconArchitectureAdapter" or not adapter.cfg.new_decoder_architecture:
        return
    parts = adapter.component_mapping["blocks"].submodules
    parts["attn"].split_qkv_matrix = _split_falcon
    if adapter.cfg.num_ln_in_parallel_attn == 1:
        parts["ln1"].name = "input_layernorm"


def _split_falcon(attention: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Split the fused projection of Falcon's new form: each key and value stands behind the queries that read it."""
    fused, keys, size = attention.query_key_value, attention.num_kv_heads, attention.head_dim
    rows = rearrange(torch.arange(len(fused.weight)), "(key part size) -> key part size", key=keys, size=size)
    return tuple(  # type: ignore[return-value]
        _rows_of(fused, part.flatten()) for part in (rows[:, :-2], rows[:, -2], rows[:, -1])
    )


def _rows_of(linear: Any, rows: Tensor) -> nn.Linear:
    weight = linear.weight.detach()[rows.to(linear.weight.device)]
    made = nn.Linear(weight.shape[1], len(rows), bias=linear.bias is not None, device="meta")
    made.weight = nn.Parameter(weight)
    if linear.bias is not None:
        made.bias = nn.Parameter(linear.bias.detach()[rows.to(weight.device)])
    return made
