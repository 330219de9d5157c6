"""Save a language model from its bridge, and open one whose layers have different widths.

The folder is that of transformers: config.json, model.safetensors, the tokenizer. Where all layers are equally wide,
config.json says how wide, and plain `from_pretrained` opens it. Where they are not, transformers has no class for it:
config.json keeps the sizes that the model was made with, and its entry "skilloc" the widths of every layer. Plain
`from_pretrained` then refuses, since the weights have other shapes, and `open_model` opens it.
"""

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from skilloc.models.checkpoints import Checkpoint, quiet
from skilloc.models.narrow import key_groups, narrowed
from skilloc.models.plain import fused_of, plain, unfuse
from skilloc.models.residual_saved import apply_residual_record, residual_config, residual_record
from skilloc.models.weights import banks_of, place_of
from skilloc.units import HEAD, NEURON, Bank

CONFIG, WEIGHTS, KEY = "config.json", "model.safetensors", "skilloc"

_WIDTHS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
_HEADS = ("num_attention_heads", "n_head")


def save_decoder(model: Any, folder: Path | str, *, tokenizer: Any = None) -> None:
    """Write a model as a folder that `open_model` opens, whole or not at all.

    Args:
        model: an `MLP`, or a bridge around a model of transformers, pruned or not.
        folder: a new folder.
        tokenizer: the model's tokenizer; a language model without one cannot be opened again.

    Raises:
        FileExistsError: if the folder is there already.
        ValueError: if the model is neither, or a language model comes without its tokenizer.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"`folder` {folder} is there already; delete it, or save to another folder")
    if not hasattr(getattr(model, "original_model", None), "save_pretrained"):
        raise ValueError(
            f"`model` is a {type(getattr(model, 'original_model', model)).__name__}, which transformers cannot save; "
            "save a model that open_model opened, or an MLP"
        )
    if tokenizer is None:
        raise ValueError("`tokenizer` is None; pass the tokenizer that open_model returned with the model")
    module = plain(model)
    weights = _weights(module)
    config = _config(model, module, weights)
    aside = folder.parent / f".{folder.name}.{secrets.token_hex(8)}.aside"
    try:
        aside.mkdir(parents=True)
        tokenizer.save_pretrained(aside)
        save_file(weights, aside / WEIGHTS, metadata={"format": "pt"})
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.save_pretrained(aside)
        (aside / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def saved_widths(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says about widths that differ between layers, or None if it says nothing."""
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return None
    found = config.get(KEY) if isinstance(config, dict) else None
    return found if isinstance(found, dict) else None


def open_widths(
    folder: Path, widths: Mapping[str, Any], dtype: torch.dtype, bridge: Callable[[Checkpoint], Any]
) -> tuple[Any, Any]:
    """Open a model whose layers have different widths; return its bridge and its tokenizer.

    Args:
        folder: what `save_model` wrote.
        widths: what `saved_widths` found there.
        dtype: the type of the weights.
        bridge: wraps a model of transformers.

    Raises:
        ValueError: if the folder is damaged.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        weights = load_file(folder / WEIGHTS)
        with quiet(), torch.random.fork_rng(devices=[]):  # initial weights take random numbers, and are overwritten
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            delattr(config, KEY)
            model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager").eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            wide = bridge(Checkpoint(model, tokenizer))
            if "residual" in widths:
                wide = apply_residual_record(wide, widths["residual"])
        smaller = narrowed(wide, {hook: _places(wide, hook, *sizes) for hook, sizes in widths["widths"].items()})
        _load(smaller, weights)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0][:160]
        raise ValueError(f'"{folder}" is damaged ({first}); save or copy the model again') from error
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f'"{folder}" has NaN or infinite weights (the first in {name}); use a checkpoint from before training '
                "diverged"
            )
    return smaller, tokenizer


def _weights(module: Any) -> dict[str, Tensor]:
    """Return the weights to save: each memory once, and no bias that the bridge gave to the unembedding in vain."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    own = set(_stock(module.config))
    for name, value in module.state_dict().items():
        if value.data_ptr() in seen or (name not in own and not bool(value.any())):
            continue
        seen.add(value.data_ptr())
        found[name] = value.detach().cpu().contiguous()
    return found


def _stock(config: Any) -> dict[str, torch.Size]:
    """Return the shapes that transformers gives to the weights of a configuration."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        return {name: value.shape for name, value in AutoModelForCausalLM.from_config(config).state_dict().items()}


def _config(model: Any, module: Any, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return config.json: with one width for all layers if transformers can read that, else with all widths."""
    sizes = {bank.name: (bank.width, _keys(model, bank)) for bank in banks_of(model)}
    architectures = [type(module).__name__]
    plain_config = module.config
    plain_config.architectures = architectures
    for candidate in (plain_config, _uniform(model, plain_config, sizes)):
        if candidate is None:
            continue
        candidate = residual_config(model, module, candidate)
        if candidate is not None and _fits(candidate, weights):
            return _written(candidate)
    record = {"format": 1, "widths": {hook: list(size) for hook, size in sizes.items()}}
    stream = residual_record(model)
    return {**_written(plain_config), KEY: record if stream is None else {**record, "residual": stream}}


def _written(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    found.pop("_name_or_path", None)
    return found


def _keys(model: Any, bank: Bank) -> int:
    return key_groups(model, bank.name) if bank.kind == HEAD else 0


def _uniform(model: Any, config: Any, sizes: Mapping[str, tuple[int, int]]) -> Any:
    """Return a configuration with the widths that all layers share, or None if they differ."""
    made = type(config).from_dict(config.to_dict())
    d_head = int(model.cfg.d_head)
    for kind in (NEURON, HEAD):
        found = {size for hook, size in sizes.items() if place_of(model, hook)[1] == kind}
        if len(found) != 1:
            return None
        width, keys = next(iter(found))
        for name in _WIDTHS if kind == NEURON else _HEADS:
            if hasattr(made, name):
                setattr(made, name, width)
        if kind == HEAD and hasattr(made, "num_key_value_heads"):
            made.num_key_value_heads = keys
        if kind == HEAD and hasattr(made, "head_dim"):
            made.head_dim = d_head
    return made


def _fits(config: Any, weights: Mapping[str, Tensor]) -> bool:
    try:
        stock = _stock(config)
    except (ValueError, RuntimeError, TypeError):  # sizes that do not go together in this architecture
        return False
    return all(stock.get(name) == value.shape for name, value in weights.items())


def _places(model: Any, hook: str, width: int, keys: int) -> np.ndarray:
    """Return units whose number, and number per key, are the saved ones: the first of each key."""
    if place_of(model, hook)[1] == NEURON:
        return np.arange(width)
    heads = next(bank.width for bank in banks_of(model) if bank.name == hook)
    each = heads // key_groups(model, hook)
    return (np.arange(keys)[:, None] * each + np.arange(width // keys)).ravel()


def _load(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Write saved weights into a model of their shapes, also where the bridge runs on parts of them."""
    own = plain(model).state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise ValueError(f"{name} does not fit the widths in config.json")
        own[name].copy_(value)
    written = {own[name].data_ptr() for name in weights}
    for name, value in own.items():
        # Tied weights are saved once, and a bias of zeros that the bridge adds not at all.
        if value.data_ptr() not in written and bool(value.any()):
            raise ValueError(f"{name} is missing")
    for block in model.blocks:
        for part in block._modules.values():
            if fused_of(part) is not None:
                unfuse(part)
