"""Prune: build the smaller model without the dropped units."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from skilloc.experiment import Reference, as_reference, hold
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, of_kind
from skilloc.models.face import Face
from skilloc.models.makers import face_of
from skilloc.pruning.keeping import check_mask
from skilloc.tasks import Examples, Inputs
from skilloc.units import EXPERT, HEAD, LAYER, Bank

TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.05}
"""Logits that differ by more than this, relative to the largest, are not those of the same model."""

FINE = 1e-3
"""The same for every other type."""

COMPARED = 8
"""Examples on which the smaller model is compared with the whole one, at most."""


def prune(
    model: nn.Module,
    mask: Mask,
    *,
    reference: Reference | Float[np.ndarray, "unit"] | None = None,
    examples: Examples | None = None,
) -> nn.Module:
    """Return a smaller model that computes what `model` computes with the dropped units held at their reference.

    Neurons lose their rows and columns, heads their query rows and output slices, and keys and values when no head
    reads them any more; residual dimensions go from all that reads and writes the stream; the units of a described
    module lose the weights that its description names. What a reference other than zero adds, sum over dropped units u
    of reference[u] w_out[u], goes into the output bias. Widths may differ from layer to layer.

    Some dropped units stay, as zeros, because implementations count on them: the first unit of a layer that would
    lose all, and, where heads share keys, as many per key as the key with most kept heads has. `remaining` tells which.

    Args:
        model: a bridge, an `MLP`, or a described module, in evaluation mode; it is left as it was.
        mask: which units are kept; of some or all banks of an axis of the model.
        reference: what dropped units are held at, the same for all examples and positions: zero if not given, a flat
            mean, or one value per unit.
        examples: the smaller model must compute what the whole one does on the first of these; if not given, on random
            tokens or bits, or on the `example` of a described module.

    Raises:
        ValueError: if the mask is not about units of the model, the reference needs a bias that the model does not
            have or differs from example to example, units cannot be cut out of this model, or a described module comes
            without any inputs to compare on.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> effects = sk.ablation_effects(experiment)
        >>> mask = sk.masks.drop_top(experiment.units, effects.mean("parity_0"), 3)
        >>> len(sk.units_of(sk.prune(model, mask)))
        13
    """
    of_kind("mask", mask, Mask, "pass a mask, such as Mask(units, keep) with the units of the model")
    face = face_of(model)
    held = as_reference(reference, mask.units)
    check_cut(face, mask, held)
    probe = _probe(face, examples)
    left = {name: np.flatnonzero(part) for name, part in mask.units.split(remaining(model, mask)).items()}
    keeps = mask.units.split(mask.keep)
    assert face.cut is not None
    smaller = face.cut(left)
    own = face_of(smaller)
    with torch.no_grad():
        for bank in mask.units.banks:
            blank = torch.from_numpy(np.flatnonzero(~keeps[bank.name][left[bank.name]]))
            for name, view in own.group(bank.name).items() if len(blank) else ():
                view[blank.to(view.device)] = own.zeros(bank.name).get(name, 0.0)
            added = _written(face, bank, ~keeps[bank.name], held)
            if added is not None and face.absorb is not None:
                face.absorb(smaller, bank.name, added, left)
    _check_same(face, own, mask, held, probe)
    return smaller


def remaining(model: nn.Module, mask: Mask) -> Bool[np.ndarray, "unit"]:
    """Return which units of the mask `prune` leaves in the model: those kept, and the few that stay as zeros.

    The units of the pruned model, in these banks, are those units, in the same order.

    Raises:
        ValueError: if the mask is not about units of the model, or heads cannot be cut out of it.
    """
    face = check_mask(model, mask)
    left = mask.keep.copy()
    for bank in mask.units.banks:
        part = left[mask.units.span(bank.name)]  # a view
        if part.all():
            continue
        if bank.kind == HEAD and face.keys is not None:
            shares = part.reshape(face.keys(bank.name), -1)
            most = max(1, int(shares.sum(axis=1).max()))
            read = shares.any(axis=1) if part.any() else np.arange(len(shares)) == 0
            for share in (shares[i] for i in np.flatnonzero(read)):
                share[np.flatnonzero(~share)[: most - int(share.sum())]] = True
        elif not part.any():
            part[0] = True
    return left


def check_cut(face: Face, mask: Mask, held: Reference) -> None:
    """Refuse what cannot be cut out of a model, before anything is done.

    Raises:
        ValueError: if the mask is not about units of the model, its dropped units cannot be cut out, or their reference
            cannot be taken up by what is left.
    """
    check_mask(face.module, mask)
    keeps = mask.units.split(mask.keep)
    for bank in mask.units.banks:
        gone = ~keeps[bank.name]
        if not gone.any():
            continue
        if bank.kind in (LAYER, EXPERT):
            raise WrongValue(
                f"`mask` drops {int(gone.sum())} of {bank.name}, and units of kind {bank.kind} cannot be cut out: what "
                "runs a model counts on them; hold the mask instead, or keep it at zero with `keep`"
            )
        if face.cut is None:
            raise WrongValue(
                f"`model` is a {face.architecture}, of which it is not known which weights belong to its units; "
                "describe them with At(..., weights={path: axis}), or hold the mask instead"
            )
        face.group(bank.name)
        if bank.kind == HEAD and face.keys is not None:
            face.keys(bank.name)
        _check_reference(face, bank, gone, held)


def _check_reference(face: Face, bank: Bank, gone: Bool[np.ndarray, "unit"], held: Reference) -> None:
    values = [_values(bank, held, hook) for hook in bank.places]
    if any(value is None for value in values):
        raise WrongValue(
            f'`reference` is "{held.name}", which differs from example to example or from position to position; prune '
            "at zero or a flat mean, or hold the mask instead"
        )
    index = torch.from_numpy(gone)
    nothing = all(value is not None and not bool(value[index.to(value.device)].any()) for value in values)
    if not nothing and (face.absorb is None or len(bank.places) > 1):
        raise WrongValue(
            f'`reference` is "{held.name}", and there is no bias that could take up what the units of {bank.name} give '
            "at it; prune at zero, or hold the mask instead"
        )


def _values(bank: Bank, held: Reference, hook: str) -> Tensor | None:
    """Return what each unit of a bank is held at, `unit *d_unit`; None if that is not one value for all."""
    value = held.values[hook]
    if held.per_row or bank.axis is None or value.ndim > -bank.axis:
        return None
    return value.expand(bank.width, *(value.shape[1:] if value.ndim == -bank.axis else value.shape))


def _written(
    face: Face, bank: Bank, gone: Bool[np.ndarray, "unit"], held: Reference
) -> Float64[Tensor, "d_model"] | None:
    """Return what the dropped units of a bank write at their reference; None if it is nothing."""
    values = _values(bank, held, bank.name) if gone.any() and len(bank.places) == 1 else None
    if values is None or not bool(values.any()):
        return None
    weights = face.write(bank.name)
    each = values.reshape(bank.width, -1).expand(bank.width, len(weights) // bank.width).to(weights.device).double()
    index = torch.from_numpy(gone).to(weights.device)
    each = each.where(index[:, None], 0)
    return each.flatten() @ weights.double() if bool(each.any()) else None


def _probe(face: Face, examples: Examples | None) -> Inputs:
    """Return a few inputs, on the model's device."""
    if examples is None and face.probe is None:
        raise WrongValue(
            f"`examples` is not given, and `model` is a {face.architecture} whose description has no inputs to compare "
            "it with the smaller one on; pass `examples`, or describe it with an `example`"
        )
    device = next(face.module.parameters()).device
    if examples is not None:
        face.check(examples)
        return examples.part(slice(0, min(COMPARED, len(examples)))).to(device).inputs
    assert face.probe is not None
    return _some(face.probe(), lambda value: value[:COMPARED].to(device))


def _some(inputs: Inputs, part: Callable[[Tensor], Tensor]) -> Inputs:
    if isinstance(inputs, Mapping):
        return {name: part(value) for name, value in inputs.items()}
    return part(inputs)


@torch.no_grad()
def _check_same(face: Face, smaller: Face, mask: Mask, held: Reference, inputs: Inputs) -> None:
    """Compare on a few inputs: an unknown architecture may count its heads in a way that this file does not know."""
    with hold(face.module, mask, held):
        wanted = face.run(inputs)
    try:
        found = smaller.run(inputs)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        found, said = None, str(error).partition("\n")[0]
    allowed = TOLERANCE.get(wanted.dtype, FINE) * max(1.0, float(wanted.abs().max()))
    if found is None or found.shape != wanted.shape or (found - wanted).abs().max() > allowed:
        how = f"does not run ({said})" if found is None else "computes something else"
        raise WrongValue(
            f"without its dropped units, this {face.architecture} {how}, so they cannot be cut out; hold the mask, or "
            "keep it at zero with `keep`"
        )
