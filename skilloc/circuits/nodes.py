"""The nodes of a circuit: some units, with the inputs before them and the outputs after them, in forward order."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from skilloc.circuits.graph import INPUT, OUTPUT
from skilloc.models.mlp import MLP
from skilloc.units import Units, kind_of, layer_of

STREAM = "blocks.0.hook_resid_pre"
"""Where the tokens enter a transformer: the residual stream before the first block."""


class Node(NamedTuple):
    """One node, with the attributes that `graph` documents."""

    name: str
    kind: str
    layer: int
    column: int
    hook: str
    position: int


def nodes_of(
    model: Any, units: Units, keep: Bool[np.ndarray, "unit"], inputs: Sequence[str] | None = None
) -> tuple[Node, ...]:
    """Return the nodes of a circuit: inputs, chosen units, outputs.

    Args:
        model: a bridge or an `MLP`.
        units: the unit axis.
        keep: which units are in the circuit.
        inputs: names of the inputs of an `MLP`; `input 0` and so on if not given.

    Raises:
        ValueError: if there is not one name per input, or one value of `keep` per unit.
    """
    if keep.shape != (len(units),):
        raise ValueError(f"`keep` has shape {keep.shape} but `units` has length {len(units)}; pass one value per unit")
    first, last = _ends(model, inputs)
    depth = len(model.layers if isinstance(model, MLP) else model.blocks)
    names = units.names
    found = [Node(name, INPUT, -1, 0, hook, i) for i, (name, hook) in enumerate(first)]
    for unit in np.flatnonzero(keep):
        hook, position = units.locate(int(unit))
        found.append(Node(names[unit], kind_of(hook), layer_of(hook), 1 + units.hooks.index(hook), hook, position))
    column = 1 + len(units.hooks)
    return (*found, *(Node(name, OUTPUT, depth, column, hook, i) for i, (name, hook) in enumerate(last)))


def _ends(model: Any, inputs: Sequence[str] | None) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return names and hooks of the inputs and of the outputs."""
    if not isinstance(model, MLP):
        if inputs is not None:
            raise ValueError(
                f"`inputs` is {list(inputs)}, but the input of a language model is its tokens; leave it out"
            )
        return [("tokens", STREAM)], [("logits", "unembed.hook_out")]
    names = [f"input {i}" for i in range(model.cfg.d_in)] if inputs is None else list(inputs)
    if len(set(names)) != model.cfg.d_in or len(names) != model.cfg.d_in:
        raise ValueError(
            f"`inputs` has {len(names)} names but `model` has {model.cfg.d_in} inputs; "
            "give each input a name of its own"
        )
    return [(name, "") for name in names], [(f"logit {c}", "") for c in range(model.cfg.d_out)]
