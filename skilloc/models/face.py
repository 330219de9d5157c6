"""What skilloc asks of a model: a module with an anatomy, and what its maker gives besides.

Three makers give a face: `mlp`, `decoder` (a transformer opened through TransformerLens), and `described` (any torch
module in which a user has named the units). Code outside this folder knows models through their faces only. An optional
part that a maker leaves out is None: who needs it says so in words, or takes another way.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from skilloc.tasks import Examples, Inputs
from skilloc.units import Bank

Edit = Callable[[Tensor], Tensor]
"""From the activation at a hook to what takes its place."""

Left = Mapping[str, Int[np.ndarray, " _"]]
"""Per bank: positions of the units that stay, rising."""

Weights = dict[str, Tensor]
"""Views of weights, `unit d_unit ...`, by name."""


@dataclass(frozen=True)
class Chain:
    """A network that is a chain of linear maps with one activation function between them.

    Attributes:
        linears: the maps, each with `weight` on `d_out d_in` and `bias`; the last gives the logits.
        hooks: the banks of the hidden layers: units live after the activation.
        activation: the function.
        name: what it is called, such as "relu".
    """

    linears: tuple[Any, ...]
    hooks: tuple[str, ...]
    activation: Callable[[Tensor], Tensor]
    name: str


@dataclass(frozen=True)
class Face:
    """A model as the rest of the house sees it.

    Attributes:
        module: the model itself.
        architecture: what messages call it.
        banks: gives all units, on all axes, in forward order on each.
        depth: number of layers.
        widest: entries of the largest tensor of a forward pass, per position.
        run: from inputs to logits, under whatever hooks the module has.
        attached: attaches one function to each of some hooks, and takes them off again on leaving.
        check: refuses examples that the model cannot take.
        write: weights through which the units of a bank write, `d_in d_out`; raises where there are none.
        group: all weights of the units of a bank; raises where they cannot be told apart.
        zeros: which of a bank's weights are off at another value than 0, by name: the gain 1 + weight at -1.
        copy: gives a copy with weights of its own.
        probe: gives a few inputs that the model can take, to compare it with another; None where nobody knows any.
        ends: names of the inputs and of the outputs, for diagrams; an output stands for one class, or for all.
        entry: the hook where what the inputs become enters, where inputs are not held one by one.
        chain: where the model is a chain of linear maps.
        blocks: modules that run one after the other, whose weights are asked for one block at a time.
        stream: whether the model is a stack of blocks around a residual stream, of which the last ones can be run
            alone.
        keys: how many keys the heads of a bank share out among them; None where units share nothing.
        cut: gives the smaller model without some units.
        absorb: adds a vector to what follows a bank, in the smaller model: model, bank, vector, units that stay.
        save: writes the model to a new folder: folder, tokenizer, shape.
        savable: refuses a model that could not be opened again, in words.
        fresh: gives a network of the same shape with fresh initial values, from a seed.
        pattern: the hook where the attention of a bank of heads can be read, `row head pos pos`; None where nowhere.
        pushes: what vectors that are added to the last residual stream add to the logits, up to one positive scale per
            vector; None where the model's end has another form.
    """

    module: nn.Module
    architecture: str
    banks: Callable[[], tuple[Bank, ...]]
    depth: int
    widest: int
    run: Callable[[Inputs], Tensor]
    attached: Callable[[Mapping[str, Edit]], AbstractContextManager[None]]
    check: Callable[[Examples], None]
    write: Callable[[str], Float[Tensor, "d_in d_out"]]
    group: Callable[[str], Weights]
    copy: Callable[[], nn.Module]
    zeros: Callable[[str], Mapping[str, float]] = lambda _: {}
    probe: Callable[[], Inputs] | None = None
    ends: tuple[tuple[str, ...], tuple[str, ...]] = ((), ("outputs",))
    entry: str | None = None
    chain: Chain | None = None
    blocks: tuple[nn.Module, ...] = ()
    stream: bool = False
    keys: Callable[[str], int] | None = None
    cut: Callable[[Left], nn.Module] | None = None
    absorb: Callable[[nn.Module, str, Tensor, Left], None] | None = None
    save: Callable[[Path, Any, Any], None] | None = None
    savable: Callable[[], None] | None = None
    fresh: Callable[[int], nn.Module] | None = None
    pattern: Callable[[Bank], str | None] = lambda _: None
    pushes: Callable[[Float[Tensor, "n d_model"]], Float[Tensor, "n d_vocab"] | None] = lambda _: None
