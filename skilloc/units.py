"""The unit axis: the one flat axis on which every per-unit vector lies, in forward order.

A unit is what can be ablated. Units that live side by side make a bank: neurons at the input of their MLP's output
projection (`blocks.3.mlp.hook_post`), attention heads at z, before the output projection (`blocks.3.attn.hook_z`). A
residual dimension lives at many places at once: at position d of everything that writes to the residual stream or reads
it through a norm. What kind of unit a bank holds, in which layer, and where on an activation, it carries as data.

One axis is a partition: neurons, heads, experts and what a user declares share one; residual dimensions and whole
layers, which overlap them, have axes of their own. Only this file knows where on the axis a bank begins.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from skilloc.mistakes import WrongValue

NEURON, HEAD, EXPERT, RESIDUAL, LAYER = "neuron", "head", "expert", "residual", "layer"

ALONE = (RESIDUAL, LAYER)
"""Kinds whose units overlap those of others, so that each has an axis of its own."""

KINDS = (NEURON, HEAD)
"""The kinds that are measured if nothing else is asked for."""


@dataclass(frozen=True)
class Bank:
    """Units that live side by side: unit i of a bank is position i of each of its places.

    Attributes:
        name: what the bank is called; the hook, where it has one place.
        width: number of units.
        kind: "neuron", "head", "residual", "layer", "expert", or what a user declares.
        layer: of the model, counted from 0; -1 where the units belong to no layer.
        label: what the printed names of its units begin with, such as L3N.
        axis: where the units lie in an activation, counted from the end: -1 for neurons, -2 for heads and experts,
            whose own entries follow; None where the whole activation is one unit.
        writes: hooks where the units act; the bank's own name if not given.
        reads: hooks where they are held besides, since something is computed anew from them there (norms).

    Raises:
        ValueError: if there are no units, or a whole activation is said to be several.
    """

    name: str
    width: int
    kind: str
    layer: int
    label: str
    axis: int | None = -1
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1:
            raise WrongValue(f"`width` of {self.name} is {self.width}; leave out banks without units")
        if self.axis is None and self.width != 1:
            raise WrongValue(f"`width` of {self.name} is {self.width}, but its whole activation is one unit; use 1")
        if self.axis is not None and self.axis >= 0:
            raise WrongValue(f"`axis` of {self.name} is {self.axis}; count from the end, such as -1")
        if not self.writes:
            object.__setattr__(self, "writes", (self.name,))

    @property
    def places(self) -> tuple[str, ...]:
        """All hooks where the units are held."""
        return (*self.writes, *self.reads)

    @property
    def names(self) -> tuple[str, ...]:
        """The printed names of the units."""
        return (self.label,) if self.axis is None else tuple(f"{self.label}{i}" for i in range(self.width))

    def record(self) -> dict[str, Any]:
        """Return a JSON form."""
        places = {} if self.places == (self.name,) else {"writes": list(self.writes), "reads": list(self.reads)}
        about = {"name": self.name, "width": self.width, "kind": self.kind, "layer": self.layer, "label": self.label}
        return {**about, "axis": self.axis, **places}


def neurons(hook: str, width: int, layer: int) -> Bank:
    """Return the bank of a layer's neurons, called L3N0, L3N1, ..."""
    return Bank(hook, width, NEURON, layer, f"L{layer}N")


def heads(hook: str, width: int, layer: int) -> Bank:
    """Return the bank of a layer's attention heads, called L3H0, L3H1, ..."""
    return Bank(hook, width, HEAD, layer, f"L{layer}H", axis=-2)


@dataclass(frozen=True)
class Units:
    """Banks in forward order; together they are the unit axis.

    Attributes:
        banks: the banks.

    Raises:
        ValueError: if there is none, one comes twice, or they overlap: residual dimensions and layers have axes of
            their own.
    """

    banks: tuple[Bank, ...]

    def __post_init__(self) -> None:
        if not self.banks or len(set(self.hooks)) != len(self.banks):
            raise WrongValue(f"`banks` are {self.hooks}; give at least one, and each once")
        kinds = {bank.kind for bank in self.banks}
        if len(kinds) > 1 and kinds.intersection(ALONE):
            raise WrongValue(
                f"`banks` hold units of kind {', '.join(sorted(kinds))}, which overlap; residual dimensions and layers "
                "have axes of their own: measure one such kind at a time"
            )

    def __len__(self) -> int:
        return sum(self.widths)

    @property
    def hooks(self) -> tuple[str, ...]:
        """The names of the banks."""
        return tuple(bank.name for bank in self.banks)

    @property
    def widths(self) -> tuple[int, ...]:
        """The number of units of each bank."""
        return tuple(bank.width for bank in self.banks)

    @property
    def offsets(self) -> Int[np.ndarray, "bank_and_end"]:
        """Where each bank begins on the axis; the last entry is the length of the axis."""
        return np.concatenate([[0], np.cumsum(self.widths)]).astype(np.int64)

    def bank(self, hook: str) -> Bank:
        """Return the bank of a name.

        Raises:
            ValueError: if there is none.
        """
        return self.banks[self._place(hook)]

    def span(self, hook: str) -> slice:
        """Return the part of the axis that belongs to a bank."""
        i = self._place(hook)
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def _place(self, hook: str) -> int:
        if hook not in self.hooks:
            raise WrongValue(f'unknown hook "{hook}"; these units lie on {", ".join(self.hooks)}')
        return self.hooks.index(hook)

    def split(self, values: Any) -> dict[str, Any]:
        """Cut an array (or tensor) whose last axis is the unit axis into one view per bank."""
        if values.shape[-1] != len(self):
            raise WrongValue(
                f"`values` has shape {tuple(values.shape)} but `units` has length {len(self)}; "
                "the last axis must have one entry per unit"
            )
        return {hook: values[..., self.span(hook)] for hook in self.hooks}

    def join(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Put one array per bank back on the unit axis: the inverse of `split`."""
        if set(parts) != set(self.hooks):
            raise WrongValue(
                f"`parts` has {sorted(parts)} but `units` lie on {sorted(self.hooks)}; give every bank once"
            )
        return np.concatenate([parts[hook] for hook in self.hooks], axis=-1)

    def locate(self, unit: int) -> tuple[str, int]:
        """Return the bank of a unit and its position there."""
        if not 0 <= unit < len(self):
            raise WrongValue(f"`unit` is {unit} but `units` has length {len(self)}; count from 0")
        i = int(np.searchsorted(self.offsets, unit, side="right")) - 1
        return self.hooks[i], unit - int(self.offsets[i])

    @property
    def layers(self) -> Int[np.ndarray, "unit"]:
        """The layer of each unit."""
        return np.repeat([bank.layer for bank in self.banks], self.widths)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each unit."""
        return tuple(np.repeat([bank.kind for bank in self.banks], self.widths).tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """The printed name of each unit: `L3N17` is neuron 17 of layer 3, `L2H1` head 1 of layer 2."""
        return tuple(name for bank in self.banks for name in bank.names)

    def only(self, kinds: Iterable[str]) -> "Units":
        """Return the units of some kinds, as an axis of their own.

        Raises:
            ValueError: if there are no such units.
        """
        wanted = [kinds] if isinstance(kinds, str) else list(kinds)
        for kind in sorted(set(wanted) - set(self.kinds)):
            raise WrongValue(
                f'there are no units of kind "{kind}" among these {len(self)}; '
                f"use {' or '.join(sorted(set(self.kinds)))}"
            )
        return Units(tuple(bank for bank in self.banks if bank.kind in wanted))

    def named(self, names: Iterable[str] | str) -> Bool[np.ndarray, "unit"]:
        """Select units by printed name: one, or several.

        Raises:
            ValueError: if a name is unknown.
        """
        index = {name: i for i, name in enumerate(self.names)}
        selected = np.zeros(len(self), dtype=bool)
        for name in [names] if isinstance(names, str) else names:
            if name not in index:
                raise WrongValue(f'unknown unit "{name}"; names run from {self.names[0]} to {self.names[-1]}')
            selected[index[name]] = True
        return selected

    def in_layers(self, layers: Iterable[int] | int) -> Bool[np.ndarray, "unit"]:
        """Select the units of a layer, or of several.

        Raises:
            ValueError: if a layer has no units.
        """
        wanted = [layers] if isinstance(layers, int) else list(layers)
        for layer in set(wanted) - set(self.layers.tolist()):
            raise WrongValue(f"`layers` has {layer}, but units lie in layers {sorted(set(self.layers.tolist()))}")
        return np.isin(self.layers, wanted)

    def within(self, other: "Units") -> bool:
        """Whether all banks of this axis are banks of another one."""
        return set(self.banks) <= set(other.banks)

    def record(self) -> dict[str, list[Any]]:
        """Return a JSON form; `Units.from_record` reads it."""
        return {"banks": [bank.record() for bank in self.banks]}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Units":
        """Read what `record` wrote, and what version 0.1 did: hooks and widths of neurons and heads."""
        if "banks" not in record:
            return _first_format(record["hooks"], record["widths"])
        banks = []
        for entry in record["banks"]:
            places = {name: tuple(entry[name]) for name in ("writes", "reads") if name in entry}
            banks.append(Bank(**{**entry, **places}))
        return Units(tuple(banks))


def _first_format(hooks: Sequence[str], widths: Sequence[int]) -> Units:
    """Read a record of version 0.1, which left kind and layer to the names of the hooks."""
    banks = []
    for hook, width in zip(hooks, widths, strict=True):
        found = re.search(r"\d+", hook)
        make = heads if hook.endswith("hook_z") else neurons
        banks.append(make(hook, int(width), int(found.group()) if found else -1))
    return Units(tuple(banks))
