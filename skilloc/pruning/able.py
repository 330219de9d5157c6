"""What can be done with a model, tried on the model itself: which units can be cut out, and what can be saved.

To be asked before a long work that ends with pruning or saving, so that nothing is refused after it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of, units_of
from skilloc.pruning.smaller import prune
from skilloc.units import HEAD, Bank, Units


@dataclass(frozen=True)
class Able:
    """What can be done with a model. An empty reason stands for yes.

    Attributes:
        save: why the model cannot be saved and opened again as it is.
        cut: per kind of unit, why such units cannot be cut out.
        save_cut: per kind of unit, why the model could not be saved, or not be opened again, without such units.
    """

    save: str
    cut: Mapping[str, str]
    save_cut: Mapping[str, str]

    def check(self, kinds: Iterable[str] = ()) -> None:
        """Refuse a work that ends with saving the model, without units of some kinds if any are named.

        Raises:
            ValueError: with the first reason.
        """
        wanted = list(kinds)
        for reason in (*(self.cut[kind] for kind in wanted), *(self.save_cut[kind] for kind in wanted)):
            if reason:
                raise WrongValue(reason)
        if self.save and not wanted:
            raise WrongValue(self.save)


def can(model: nn.Module, *, kinds: Iterable[str] | None = None) -> Able:
    """Return what can be done with a model: units of every kind are cut out of a copy, and what is left is compared.

    Args:
        model: a bridge, an `MLP`, or a described module, in evaluation mode; it is left as it was.
        kinds: the kinds to try; all that the model has if not given.

    Raises:
        ValueError: if the model has no units of a kind.
    """
    there = dict.fromkeys(bank.kind for bank in face_of(model).banks())
    cut, save_cut = {}, {}
    for kind in there if kinds is None else kinds:
        smaller, cut[kind] = _cut(model, kind)
        save_cut[kind] = cut[kind] if smaller is None else _saved(smaller)
    return Able(_saved(model), cut, save_cut)


def _cut(model: nn.Module, kind: str) -> tuple[nn.Module | None, str]:
    """Return a model without some units of a kind, or the reason why there is none."""
    units = units_of(model, kinds=(kind,))
    try:
        return prune(model, _trial(model, units)), ""
    except (ValueError, RuntimeError) as error:
        return None, " ".join(str(error).split())


def _saved(model: nn.Module) -> str:
    face = face_of(model)
    if face.savable is None:
        return f"`model` is a {face.architecture}, which has no file format of its own; save its state_dict with torch"
    try:
        face.savable()
    except (ValueError, RuntimeError) as error:
        return " ".join(str(error).split())
    return ""


def _trial(model: nn.Module, units: Units) -> Mask:
    """Return a mask that drops other numbers of units in neighbouring banks, of heads also a whole key."""
    keep = np.ones(len(units), dtype=bool)
    for i, bank in enumerate(units.banks):
        keep[units.span(bank.name)] = _kept(model, bank, i % 2)
    return Mask(units, keep)


def _kept(model: nn.Module, bank: Bank, odd: int) -> np.ndarray:
    kept, keys = np.ones(bank.width, dtype=bool), face_of(model).keys
    if bank.width == 1:
        return ~kept
    if bank.kind != HEAD or keys is None:
        kept[: min(1 + odd, bank.width - 1)] = False
        return kept
    try:
        groups = kept.reshape(keys(bank.name), -1)  # a view
    except ValueError:  # which prune says
        return kept & (np.arange(bank.width) > 0)
    if groups.shape[1] > 1 and not (odd and len(groups) > 1):
        groups[:, 0] = False
    else:
        groups[0] = False
    return kept
