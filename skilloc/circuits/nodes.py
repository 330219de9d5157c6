"""The nodes of a circuit: some units, with the inputs before them and the outputs after them, in forward order."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.units import Bank, Units


class Node(NamedTuple):
    """One node, with the attributes that `graph` documents."""

    name: str
    kind: str
    layer: int
    column: int
    hook: str
    position: int


def nodes_of(
    face: Face, units: Units, keep: Bool[np.ndarray, "unit"], inputs: Sequence[str] | None = None
) -> tuple[Node, ...]:
    """Return the nodes of a circuit: inputs, chosen units, outputs.

    Inputs and outputs are those that the face of the model names. Units of several places have no inputs before them:
    no edge leads into such a unit (see `edges`).

    Args:
        face: of the model.
        units: the unit axis.
        keep: which units are in the circuit.
        inputs: other names of the inputs, where they are held one by one.

    Raises:
        ValueError: if there is not one name per input, or one value of `keep` per unit.
    """
    if keep.shape != (len(units),):
        raise WrongValue(f"`keep` has shape {keep.shape} but `units` has length {len(units)}; pass one value per unit")
    for kind in {INPUT, OUTPUT} & set(units.kinds):
        raise WrongValue(
            f'`units` are of kind "{kind}", as circuits call what is no unit; describe them as another kind'
        )
    names = units.names
    found = [Node(name, INPUT, -1, 0, face.entry or "", i) for i, name in enumerate(_inputs(face, units, inputs))]
    for unit in np.flatnonzero(keep):
        hook, position = units.locate(int(unit))
        bank = units.bank(hook)
        found.append(Node(names[unit], bank.kind, bank.layer, 1 + units.hooks.index(hook), hook, position))
    column = 1 + len(units.hooks)
    return (*found, *(Node(name, OUTPUT, face.depth, column, "", i) for i, name in enumerate(face.ends[1])))


def spread_out(units: Units) -> tuple[Bank, ...]:
    """Return the banks whose units have several places."""
    return tuple(bank for bank in units.banks if len(bank.places) > 1)


def _inputs(face: Face, units: Units, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the inputs."""
    spread, own = spread_out(units), face.ends[0]
    if names is None:
        return () if spread else own
    if spread:
        raise WrongValue(
            f"`inputs` is {list(names)}, but {spread[0].names[0]} has {len(spread[0].places)} places, at each of which "
            "it is computed anew from the others, so that no single change of it stands for an edge into it; leave "
            "`inputs` out, and the edges from such units to the outputs are measured"
        )
    if face.entry is not None or not own:
        what = f"enters at once, as {', '.join(own)}" if own else "has no names"
        raise WrongValue(f"`inputs` is {list(names)}, but what the {face.architecture} is given {what}; leave it out")
    if len(set(names)) != len(own) or len(names) != len(own):
        raise WrongValue(
            f"`inputs` has {len(names)} names but `model` has {len(own)} inputs; give each input a name of its own"
        )
    return tuple(names)
