"""Hold: run the model with some units at their reference."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from skilloc.experiment.axes import at_positions, spread
from skilloc.experiment.reference import Reference
from skilloc.masks import Mask
from skilloc.models.face import Edit
from skilloc.models.makers import face_of


@contextmanager
def hold(
    model: nn.Module,
    mask: Mask,
    reference: Reference,
    rows: slice = slice(None),
    *,
    where: Bool[Tensor, "row pos"] | None = None,
) -> Iterator[None]:
    """Run the model with the dropped units of a mask at their reference; the weights stay untouched.

    activation[r, t, u] becomes activation[r, t, u] where keep[u], and reference[r, t, u] elsewhere, at every place of
    u.

    Args:
        model: a bridge, an `MLP` or a described module.
        mask: which units are kept.
        reference: what the others are held at.
        rows: which of the reference's rows the model will see, where it has one value per row.
        where: the positions at which they are held, of all rows; everywhere if not given.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment)
        >>> mask = sk.masks.drop_top(experiment.units, effects.mean("parity_0"), 3)
        >>> with sk.hold(model, mask, sk.Experiment(model, subtasks, reference="zero", count=4).held):
        ...     logits = model(subtasks["parity_0"].draw(4).inputs)
        >>> logits.shape
        torch.Size([4, 2])
    """
    edits = edits_of(mask, reference, rows, where)
    with face_of(model).attached(edits):
        yield


def edits_of(
    mask: Mask, reference: Reference, rows: slice, where: Bool[Tensor, "row pos"] | None = None
) -> dict[str, Edit]:
    """Return what holds the dropped units of a mask, by hook."""
    keeps = mask.units.split(mask.keep)
    found: dict[str, Edit] = {}
    for bank in mask.units.banks:
        if not keeps[bank.name].all():
            keep = spread(torch.from_numpy(keeps[bank.name].copy()), bank)
            for hook in bank.places:
                found[hook] = _holder(hook, keep, reference, rows, where)
    return found


def _holder(hook: str, keep: Tensor, reference: Reference, rows: slice, where: Bool[Tensor, "row pos"] | None) -> Edit:
    def held(value: Tensor) -> Tensor:
        kept = keep.to(value.device)
        if where is not None:
            kept = kept | ~at_positions(where[rows].to(value.device), value)
        return torch.where(kept, value, reference.on(hook, rows).to(value))

    return held
