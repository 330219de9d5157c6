"""The attacker: every way in which a skill is tried to be got back, of which the best one counts.

A way is data: how it starts (`starts`), what it trains on, and whether it trains at all. All models get the same ways,
those that never saw the skill too, so that what a way gives to everybody is nobody's. Which ways make sense for which
models:

| ways | chain of linear maps | decoder | described module |
|---|---|---|---|
| as it is, repaired, mixed (where examples can be one batch), few examples, kept only | yes | yes | yes |
| shrunk, quantised | yes | yes | yes; shrunk needs `fresh` |
| unmasked | yes | where units have weights of their own | where a unit's weights are named |
| rescaled | layers | gains of norms | gains of norms |
| revived, evened, read out, patched map | yes | no: no bias of a unit's own, no single chain | no |
| patched part (`parts`) | no | of the original's shape | of the original's shape |
"""

from dataclasses import dataclass
from typing import Literal

from skilloc.relearning.parts import patched_part
from skilloc.relearning.reading import read_out
from skilloc.relearning.starts import (
    Start,
    as_it_is,
    evened,
    patched,
    quantised,
    rescaled,
    revived,
    revived_and_scaled,
    shrunk,
    then,
)
from skilloc.relearning.unmasking import unmasked

Data = Literal["attacked", "mixed", "few", "kept", "none"]
"""What is trained on: the attacked subtasks; these and the kept ones; a pool of `FEW` of the attacked ones; the kept
ones only; nothing at all."""

FEW = 64
"""Different examples per attacked subtask in an attack by few."""

SHOWN = 512
"""Examples of the attacked subtask, and as many of each kept one, from the train split, that a start may look at."""


@dataclass(frozen=True)
class Way:
    """A way to attack.

    Attributes:
        name: how results call it.
        start: what is done to the model first.
        data: what it is trained on afterwards.
        repaired: whether the model is trained on the kept subtasks before all that, until it is whole.
    """

    name: str
    start: Start = as_it_is
    data: Data = "attacked"
    repaired: bool = False


AS_IT_IS, REPAIRED = Way("as it is"), Way("repaired", repaired=True)

PLAIN_WAYS = (AS_IT_IS, REPAIRED)
"""Gradient descent alone: cheap, and blind to what gradients do not pass."""

WAYS = (
    *PLAIN_WAYS,
    Way("revived", revived),
    Way("revived and scaled", revived_and_scaled),
    Way("rescaled", rescaled),
    Way("evened", evened),
    Way("shrunk a little", shrunk(0.7, 0.3)),
    Way("shrunk by half", shrunk(0.4, 0.6)),
    Way("shrunk to a tenth", shrunk(0.1, 1.0)),
    Way("unmasked", unmasked),
    Way("read out of layer 1", read_out(1)),
    Way("read out of layer 2", read_out(2)),
    Way("first map of the original", patched(0), data="none"),
    Way("second map of the original", patched(1), data="none"),
    Way("last map of the original", patched(-1), data="none"),
    Way("first map of the original, unmasked", then(patched(0), unmasked), data="none"),
    Way("first map of the original, rescaled", then(patched(0), rescaled), data="none"),
    Way("first map of the original, revived", then(patched(0), revived_and_scaled), data="none"),
    Way("a part of the original", patched_part, data="none"),
    Way("a part of the original, unmasked", then(patched_part, unmasked), data="none"),
    Way("mixed", data="mixed"),
    Way("few examples", data="few"),
    Way("kept only", data="kept"),
    Way("8 bits", quantised(8)),
    Way("4 bits", quantised(4)),
)
"""All of them."""
