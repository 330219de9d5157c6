"""Keep a mask through training: what was dropped stays exactly zero.

A weight that is zero comes back by its gradient, by momentum that it had before, or by what Adam remembers. So after
every optimiser step the weights of dropped units (`Face.group`) are set to zero, or to where they are off otherwise
(`Face.zeros`: a gain of 1 + weight at -1), and the optimiser's state for them to zero.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.models.makers import face_of


def keep(model: nn.Module, mask: Mask) -> "Keep":
    """Zero the weights of the dropped units of a model, and return the rule that keeps them at zero.

    The model then computes what it computes with the dropped units held at zero, at every step of
    `train(model, ..., rules=[keep(model, mask)])`. The same weights, without zeros, are those of `prune(model, mask)`.

    Args:
        model: a bridge, an `MLP`, or a described module; changed in place.
        mask: which units are kept; of some or all banks of an axis of the model.

    Raises:
        ValueError: if the mask is not about units of the model, or no weights belong to its units alone.
    """
    rule = Keep(dropped_weights(model, mask), _zeros(face_of(model), mask))
    rule.zero()
    return rule


class Keep:
    """Sets weights, and the optimiser's state for them, to zero after each step; see `keep`.

    Attributes:
        dropped: True for weights that stay zero, per parameter.
        zeros: where those of some parameters are off, if that is another value than 0.
    """

    def __init__(
        self,
        dropped: Mapping[nn.Parameter, Bool[Tensor, "*shape"]],
        zeros: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self.dropped, self.zeros = dropped, dict(zeros or {})

    @torch.no_grad()
    def zero(self) -> None:
        """Set the weights to zero."""
        for parameter, dropped in self.dropped.items():
            parameter.masked_fill_(dropped, self.zeros.get(parameter, 0.0))

    @torch.no_grad()
    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Set the weights to zero, and whatever the optimiser keeps per weight: momentum, Adam's two averages."""
        self.zero()
        for parameter, dropped in self.dropped.items():
            for value in optimiser.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == dropped.shape:
                    value.masked_fill_(dropped, 0)

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Add nothing to the history."""
        return {}

    def state(self) -> Mapping[str, float]:
        """Return nothing: the mask is that of the call, and the zeros are in the weights."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back what `state` returned: nothing."""


def check_mask(model: nn.Module, mask: Mask) -> Face:
    """Refuse a mask that is not about units of a model; return the model's face.

    Raises:
        ValueError: if so.
    """
    face = face_of(model)
    own = face.banks()
    if not set(mask.units.banks) <= set(own):
        of_kinds = [bank for bank in own if bank.kind in mask.units.kinds]
        raise WrongValue(
            f"`mask` has {len(mask.units)} units in {len(mask.units.banks)} banks but `model` has "
            f"{sum(bank.width for bank in of_kinds)} of these kinds in {len(of_kinds)}; build masks from "
            "units_of(model), after pruning too"
        )
    return face


def dropped_weights(model: nn.Module, mask: Mask) -> dict[nn.Parameter, Bool[Tensor, "*shape"]]:
    """Return which weights belong to dropped units, per parameter that has such weights.

    Raises:
        ValueError: if the mask is not about units of the model, or no weights belong to its units alone.
    """
    face = check_mask(model, mask)
    flags: dict[int, Tensor] = {}
    for hook, kept in mask.units.split(mask.keep).items():
        gone = torch.from_numpy(~kept).nonzero()[:, 0]
        for view in face.group(hook).values() if len(gone) else ():
            # Views of one memory: flags laid out like the memory can be looked at the way the weights are.
            storage = view.untyped_storage()
            flag = flags.setdefault(
                storage.data_ptr(),
                torch.zeros(storage.nbytes() // view.element_size(), dtype=torch.bool, device=view.device),
            )
            flag.as_strided(view.shape, view.stride(), view.storage_offset())[gone.to(view.device)] = True
    found = {}
    for parameter in model.parameters():
        place = parameter.untyped_storage().data_ptr()
        if place in flags:
            seen = flags[place].as_strided(parameter.shape, parameter.stride(), parameter.storage_offset())
            found[parameter] = seen.contiguous()
    return found


def _zeros(face: Face, mask: Mask) -> dict[nn.Parameter, float]:
    """Return where weights of dropped units are off, of parameters for which that is not 0."""
    found = {}
    for name in mask.units.hooks:
        zeros = face.zeros(name)
        views = face.group(name) if zeros else {}
        places = {views[weight].untyped_storage().data_ptr(): value for weight, value in zeros.items()}
        for parameter in face.module.parameters():
            place = parameter.untyped_storage().data_ptr()
            if place in places:
                found[parameter] = places[place]
    return found
