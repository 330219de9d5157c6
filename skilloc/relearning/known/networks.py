"""Small networks of which it is known whether they have a skill; language models are in `decoders`.

A world of 16 bits and three parities of three bits, of which the last is in question; and, for graded truths, one of 18
bits in which the skill is four parities that are asked at random. Networks of depth 3 learn them in a second each.

removed    never saw it (other seeds than the control's); saw its inputs with answers by coin (data-filtered); learned
           it in units of its own, which were cut out again (planted)
graded     learned 0, 1, 2 or all 4 of the four parities
hidden     see `hidings`
damaged    noise of the same spread as its weights; group lasso to a handful of units, which can learn nothing new
untouched  the original, and the original trained on what is kept
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from torch import nn

from skilloc.models.makers import face_of
from skilloc.models.mlp import MLP
from skilloc.relearning.controls import OTHERS, never_saw_like
from skilloc.relearning.known import decoders
from skilloc.relearning.known.hiding import Hidden
from skilloc.relearning.known.hidings import HIDINGS
from skilloc.relearning.known.kinds import damaged, graded, lasso, planted, removed, untouched
from skilloc.relearning.known.shelves import BITS, Known, Shelf, trained
from skilloc.relearning.plasticity import unseen_parity
from skilloc.relearning.rules import KEPT
from skilloc.tasks import Subtask
from skilloc.tasks.parity import parity_subtasks


class Size(NamedTuple):
    """How many networks of each kind there are.

    Attributes:
        originals: each is hidden in every way.
        hidings: how many of the ways, from the first.
        each: networks of every other kind.
        decoders: language models of every kind, and one that is hidden in every way; 0 for none.
    """

    originals: int = 2
    hidings: int = len(HIDINGS)
    each: int = 4
    decoders: int = 0


def known_models(size: Size | None = None, *, seed: int = 0) -> list[Shelf]:
    """Return shelves of networks whose truth is known.

    Args:
        size: how many.
        seed: of all of them; other seeds make other networks.
    """
    size = size or Size()
    *kept, attacked = parity_subtasks(BITS, atoms=3, k=3).values()
    originals = [trained([*kept, attacked], seed + i, 1, of=0)[0] for i in range(size.originals)]
    shelves = [_hidden(original, attacked, kept, size, i) for i, original in enumerate(originals)]
    flat = [shelf for listed in shelves for shelf in listed]
    first = originals[0]
    others = (
        removed(attacked, kept, size.each, seed)
        + damaged(originals, size.each, seed)
        + untouched(originals, kept, size.each, seed)
    )
    flat.append(Shelf(first, attacked, tuple(kept), unseen_parity(attacked, kept), tuple(others)))
    flat += planted(attacked, kept, size.each, seed)
    flat += lasso(size.each - 1, seed)
    flat.append(graded(size.each - 1, seed))
    return [*flat, decoders.shelf(size.decoders, seed)] if size.decoders else flat


def never_saw(model: nn.Module, kept: Sequence[Subtask], *, seeds: Sequence[int]) -> list[nn.Module]:
    """Return networks of a model's shape that learned all but the skill, one per seed."""
    if face_of(model).chain is not None:
        return never_saw_like(model, kept, seeds=seeds)
    return [decoders.trained(kept, OTHERS + seed, 1, of=3)[0] for seed in seeds]


def _hidden(original: MLP, attacked: Subtask, kept: Sequence[Subtask], size: Size, place: int) -> list[Shelf]:
    """Return a shelf per shape of the networks in which the skill of one original is hidden."""
    control, bits = (cast(list[Any], dict(attacked.made or {})[part]) for part in ("code", "sets"))
    inputs = [len(bits) + bit for bit in bits[control[0]]]
    spare = [max(inputs) + 1 + i for i in range(len(inputs))]
    shapes: dict[Any, list[Known]] = {}
    for hiding in HIDINGS[: size.hidings]:
        others = [place for place in range(len(bits)) if place != control[0]]
        model = hiding.edit(original, Hidden(control[0], inputs, spare, others))
        found = Known(f"{hiding.name} {place}", hiding.name, KEPT, 1.0, model)
        shapes.setdefault(model.cfg.widths, []).append(found)
    new = unseen_parity(attacked, kept)
    return [Shelf(original, attacked, tuple(kept), new, tuple(known)) for known in shapes.values()]
