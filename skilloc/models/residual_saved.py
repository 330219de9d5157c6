"""What a folder says about a decoder whose residual stream was cut, and whether transformers can make it by itself."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from skilloc.models.norms import forms_of
from skilloc.models.reading import quiet
from skilloc.models.residual_cut import cut_residual, stream_widths
from skilloc.models.stream import parts_of

_EPSILON = "rms_norm_eps"


def residual_record(model: Any) -> dict[str, Any] | None:
    """Return what a folder must say about a stream that was cut, as JSON; None if it was not."""
    widths = stream_widths(model)
    return None if widths is None else {"width": widths[0]}


def apply_residual_record(model: Any, record: Mapping[str, Any]) -> Any:
    """Return a decoder of stock shape with the stream of a record, to load the saved weights into.

    Raises:
        ValueError: if the record does not fit the model.
    """
    return cut_residual(model, np.arange(int(record["width"])))


def residual_config(model: Any, module: nn.Module, config: Any) -> Any:
    """Return a configuration with which transformers itself makes a cut decoder, or None if there is none.

    It has the smaller `hidden_size`, an explicit `head_dim`, and the epsilon of the norms. What transformers makes of
    it has been compared with the decoder: the shapes of weights and buffers, and the numbers that modules hold.

    Args:
        model: the bridge.
        module: what is saved: `plain(model)`.
        config: the configuration of the stock width, with whatever else has changed (heads, neurons); left as it was,
            and returned if the stream was not cut.
    """
    widths = stream_widths(model)
    if widths is None:
        return config
    width, full = widths
    forms = forms_of(model, parts_of(model))
    if any(form.centred for _, form in forms) or not hasattr(config, _EPSILON):
        return None
    part, form = forms[0]
    changes: dict[str, Any] = {"hidden_size": width, "head_dim": int(model.cfg.d_head)}
    changes[_EPSILON] = float(getattr(part.module, form.epsilon))
    try:
        made = type(config).from_dict({**config.to_dict(), **changes})
        stock = _made_of(made)
    except Exception as error:
        # Sizes that do not go together in this architecture; huggingface_hub has an error of its own for them.
        if isinstance(error, ValueError | RuntimeError | TypeError | AttributeError) or "Valid" in type(error).__name__:
            return None
        raise
    return made if _same(module, stock, {float(full), float(width)}) else None


def _made_of(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    with quiet(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _same(module: nn.Module, stock: nn.Module, widths: set[float]) -> bool:
    """Whether a module has the shapes and the numbers of another one; the widths of the stream may differ."""
    shapes = {name: value.shape for name, value in (*module.named_parameters(), *module.named_buffers())}
    for name, value in (*stock.named_parameters(), *stock.named_buffers()):
        if shapes.get(name) != value.shape:
            return False
    own = dict(module.named_modules())
    for name, other in stock.named_modules():
        numbers = _numbers(own[name]) if name in own else {}
        for key, number in _numbers(other).items():
            mine = numbers.get(key)
            if mine is None or (abs(mine - number) > 1e-6 * abs(number) and {mine, number} != widths):
                return False
    return True


def _numbers(module: nn.Module) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in module.__dict__.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and not name.startswith("_")
    }
