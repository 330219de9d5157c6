"""Save a language model from its bridge, and open one whose layers have different widths.

The folder is that of transformers: config.json, model.safetensors, the tokenizer. What plain `from_pretrained` cannot
open (see `encoded`) has an entry "skilloc" in its config.json, with the widths of the hooks that were cut, and is
opened by `open_model`. Plain `from_pretrained` refuses it: the weights have other shapes, or lie in another file.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.models.cutting import narrowed, places
from skilloc.models.encoded import Encoded, apart, check_wrapped, difference, encode, tolerance
from skilloc.models.exported import blank, exported
from skilloc.models.reading import Checkpoint, quiet
from skilloc.models.residual_saved import apply_residual_record
from skilloc.models.unwrapped import fused_of, plain, unfuse
from skilloc.models.weights import architecture, unwrapped
from skilloc.models.written import write_weights

CONFIG, WEIGHTS, KEY = "config.json", "model.safetensors", "skilloc"

OWN_WEIGHTS = "skilloc.safetensors"
"""Where weights lie that a plain model has no place for: plain `from_pretrained` would leave them out in silence."""

Shape = Literal["as it is", "rectangular", "padded"]
"""How a pruned model is saved: with the widths that it has; with zeros, so that all layers are as wide as the widest
one; with zeros, so that it has the shape that it was made with."""


def save_decoder(model: Any, folder: Path | str, *, tokenizer: Any = None, shape: Shape = "as it is") -> None:
    """Write a language model as a folder that `open_model` opens, whole or not at all.

    Args:
        model: a bridge around a model of transformers, pruned or not; it is left as it was.
        folder: a new folder.
        tokenizer: the model's tokenizer; without one, the model cannot be opened again.
        shape: "as it is", which plain transformers opens where the configuration has words for the widths; or
            "rectangular" or "padded", which it opens always. That logits will be equal is seen before anything is
            written.

    Raises:
        FileExistsError: if the folder is there already.
        ValueError: if the model is none of transformers, comes without its tokenizer, or has no such shape.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"`folder` {folder} is there already; save to another folder")
    if shape not in get_args(Shape):
        raise WrongValue(f'unknown `shape` "{shape}"; use one of {", ".join(get_args(Shape))}')
    check_wrapped(model)
    if tokenizer is None:
        raise WrongValue("`tokenizer` is None; pass the tokenizer that open_model returned with the model")
    encoded = _as_it_is(model) if shape == "as it is" else exported(model, rectangular=shape == "rectangular")
    config = _written(encoded)
    with store.placed(folder) as aside:
        aside.mkdir()
        tokenizer.save_pretrained(aside)
        write_weights(encoded.weights, aside / (OWN_WEIGHTS if encoded.biases else WEIGHTS))
        if getattr(model.original_model, "generation_config", None) is not None:
            model.original_model.generation_config.save_pretrained(aside)
        (aside / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
        store.write_manifest(aside)


def plain_shape(model: Any) -> Shape:
    """Return the shape in which plain transformers opens a model: as it is where that can be, else with zeros.

    Raises:
        ValueError: if the model is none of transformers.
    """
    return "as it is" if encode(model).stock else "rectangular"


def _written(encoded: Encoded) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(encoded.config.to_json_string(use_diff=False))
    found.pop("_name_or_path", None)
    if encoded.stock:
        return found
    widths = {hook: list(size) for hook, size in encoded.cut.items()}
    stream = {} if encoded.stream is None else {"residual": dict(encoded.stream)}
    return {**found, KEY: {"format": 1, "widths": widths, "biases": list(encoded.biases), **stream}}


def check_savable(model: Any) -> None:
    """Refuse a model that could not be opened again; to be asked before a long work whose result is to be saved.

    Raises:
        ValueError: with the reason.
    """
    _as_it_is(model)


def _as_it_is(model: Any) -> Encoded:
    """Return a model as it is to be saved, after comparing what will be opened with it."""
    encoded = encode(model)
    if encoded.stock:
        off = difference(model, encoded)
    else:
        with torch.random.fork_rng(devices=[]):  # initial values, to be overwritten
            wide = blank(model, encoded.config)
        off = apart(model, _rebuilt(wide, encoded.cut, encoded.biases, encoded.stream, encoded.weights))
    if not off <= tolerance(model):
        raise WrongValue(
            f"`model` is a {architecture(model)} that would compute something else when it is opened again (logits "
            f"differ by {off:.1g} of the largest), so that it cannot be saved"
        )
    return encoded


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
        weights = load_file(folder / (OWN_WEIGHTS if widths.get("biases") else WEIGHTS))
        read: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        with quiet(), torch.random.fork_rng(devices=[]):  # initial weights take random numbers, and are overwritten
            config = AutoConfig.from_pretrained(folder, **read)
            delattr(config, KEY)
            model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, attn_implementation="eager", trust_remote_code=False
            ).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder, **read)
            wide = bridge(Checkpoint(model, tokenizer))
        stream = widths.get("residual")
        smaller = _rebuilt(wide, widths["widths"], widths.get("biases", ()), stream, weights)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0][:160]
        raise WrongValue(f'"{folder}" is damaged ({first}); save or copy the model again') from error
    for name, value in weights.items():
        if not bool(torch.isfinite(value).all()):
            raise WrongValue(
                f'"{folder}" has NaN or infinite weights (the first in {name}); use a checkpoint from before training '
                "diverged"
            )
    return smaller, tokenizer


def _rebuilt(
    wide: Any,
    cut: Mapping[str, Any],
    biases: Sequence[str],
    stream: Mapping[str, Any] | None,
    weights: Mapping[str, Tensor],
) -> Any:
    """Return a model of saved widths with saved weights, made of one of the widths that its configuration says."""
    wide = wide if stream is None else apply_residual_record(wide, stream)
    smaller = narrowed(wide, places(wide, cut))
    for name in biases:
        _add_bias(smaller, name, weights[name])
    _load(smaller, weights)
    return smaller


def _add_bias(model: Any, name: str, value: Tensor) -> None:
    """Give a projection a bias that its class does not have."""
    module = model.original_model
    for part in name.split(".")[:-1]:
        module = unwrapped(module)._modules[part]
    module = unwrapped(module)
    module.bias = nn.Parameter(value.to(module.weight))


def _load(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Write saved weights into a model of their shapes, also where the bridge runs on parts of them."""
    own = plain(model).state_dict()
    for name, value in weights.items():
        if name not in own or own[name].shape != value.shape:
            raise WrongValue(f"{name} does not fit the widths in config.json")
        own[name].copy_(value)
    written = {own[name].data_ptr() for name in weights}
    for name, value in own.items():
        # Tied weights are saved once, and a bias of zeros that the bridge adds not at all.
        if value.data_ptr() not in written and bool(value.any()):
            raise WrongValue(f"{name} is missing")
    for block in model.blocks:
        for part in block._modules.values():
            if fused_of(part) is not None:
                unfuse(part)
