"""A network of the shape of another one with fresh initial values: those of its family."""

from typing import Any

import torch

from skilloc.models.copying import copied
from skilloc.models.cutting import narrowed, places
from skilloc.models.encoded import cut_widths
from skilloc.models.exported import blank
from skilloc.models.residual_saved import apply_residual_record, residual_record


def fresh(model: Any, *, seed: int) -> Any:
    """Return a language model of the same shape with the initial values that its class in transformers gives.

    So a norm whose gain is 1 + weight has weights of zero, and what a family scales or leaves out is scaled or left
    out. A pruned model is cut out of a network of the size that its configuration says: initial values of a layer are
    drawn alike, so which of its units stay makes no difference.

    Args:
        model: a bridge, pruned or not; it is left as it was.
        seed: of the initial values.
    """
    with torch.random.fork_rng(devices=[]):
        # Only the generator that draws here: torch.manual_seed would seed those of other devices for good.
        torch.default_generator.manual_seed(seed)
        if hasattr(model.original_model, "_from_config"):
            made = blank(model, model.original_model.config)
            stream = residual_record(model)
            made = made if stream is None else apply_residual_record(made, stream)
            made = narrowed(made, places(made, cut_widths(model)))
        else:
            made = copied(model)
            _restart(made, seed)
    return made.eval()


def _restart(model: Any, seed: int) -> None:
    """Give initial values to a model that is none of transformers."""
    from transformer_lens.model_bridge.sources.native.init import initialize_native_model
    from transformer_lens.model_bridge.sources.native.model import NativeModel

    if isinstance(model.original_model, NativeModel):
        initialize_native_model(model.original_model, model.cfg, seed=seed)
        return
    for module in model.original_model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
