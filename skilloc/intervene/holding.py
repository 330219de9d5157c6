"""Hold: run the model with some units at their reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from skilloc.intervene.hooks import attached
from skilloc.intervene.reference import Reference
from skilloc.masks import Mask
from skilloc.units import kind_of


@contextmanager
def hold(model: Any, mask: Mask, reference: Reference, rows: slice = slice(None)) -> Iterator[None]:
    """Run the model with the dropped units of a mask at their reference; the weights stay untouched.

    activation[e, t, u] becomes activation[e, t, u] where keep[u], and reference[e, t, u] elsewhere.

    Args:
        model: a bridge, or any model with the same hooks.
        mask: which units are kept.
        reference: what the others are held at.
        rows: which of the reference's examples the model will see, where it has one value per example.
    """
    keeps = mask.units.split(mask.keep)

    def holder(hook: str) -> Any:
        keep = torch.from_numpy(keeps[hook].copy())

        def held(value: Tensor) -> Tensor:
            chosen = keep.to(value.device)
            chosen = chosen[:, None] if kind_of(hook) == "head" else chosen
            return torch.where(chosen, value, reference.on(hook, rows).to(value))

        return held

    with attached(model, {hook: holder(hook) for hook in mask.units.hooks if not keeps[hook].all()}):
        yield
