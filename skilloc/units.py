"""The unit axis: the one flat axis on which every per-unit vector lies, in forward order.

A unit is what can be ablated. It lives at a position of a hook: a neuron at the input of its MLP's output projection
(`blocks.3.mlp.hook_post`), an attention head at z, before the output projection (`blocks.3.attn.hook_z`). Only this
file knows where on the axis a hook begins.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

KINDS = {"neuron": "N", "head": "H"}
"""The kinds of unit, each with the letter of its printed name: `L3N17`, `L2H1`."""


def kind_of(hook: str) -> str:
    """Return "head" for a hook at z, and "neuron" for any other."""
    return "head" if hook.endswith("hook_z") else "neuron"


def layer_of(hook: str) -> int:
    """Return the layer that a hook name speaks of: 3 for `blocks.3.mlp.hook_post`."""
    found = re.search(r"\d+", hook)
    if found is None:
        raise ValueError(f'`hook` is "{hook}", which names no layer; use a name such as blocks.3.mlp.hook_post')
    return int(found.group())


@dataclass(frozen=True)
class Units:
    """Hooks and their widths, in forward order; together they are the unit axis.

    Attributes:
        hooks: one name per group of units.
        widths: number of units on each hook.

    Raises:
        ValueError: if a hook comes twice, or a width is below 1.
    """

    hooks: tuple[str, ...]
    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.hooks) != len(self.widths) or len(set(self.hooks)) != len(self.hooks) or not self.hooks:
            raise ValueError(
                f"`hooks` {self.hooks} and `widths` {self.widths} do not belong together; name each hook once, "
                "with one width"
            )
        if min(self.widths) < 1:
            raise ValueError(f"`widths` is {self.widths}; leave out hooks without units")

    def __len__(self) -> int:
        return sum(self.widths)

    @property
    def offsets(self) -> Int[np.ndarray, "hooks_and_end"]:
        """Where each hook begins on the axis; the last entry is the length of the axis."""
        return np.concatenate([[0], np.cumsum(self.widths)]).astype(np.int64)

    def span(self, hook: str) -> slice:
        """Return the part of the axis that belongs to a hook."""
        if hook not in self.hooks:
            raise ValueError(f'unknown hook "{hook}"; these units lie on {", ".join(self.hooks)}')
        i = self.hooks.index(hook)
        return slice(int(self.offsets[i]), int(self.offsets[i + 1]))

    def split(self, values: Any) -> dict[str, Any]:
        """Cut an array (or tensor) whose last axis is the unit axis into one view per hook."""
        if values.shape[-1] != len(self):
            raise ValueError(
                f"`values` has shape {tuple(values.shape)} but `units` has length {len(self)}; "
                "the last axis must have one entry per unit"
            )
        return {hook: values[..., self.span(hook)] for hook in self.hooks}

    def join(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Put one array per hook back on the unit axis: the inverse of `split`."""
        if set(parts) != set(self.hooks):
            raise ValueError(
                f"`parts` has {sorted(parts)} but `units` lie on {sorted(self.hooks)}; give every hook once"
            )
        return np.concatenate([parts[hook] for hook in self.hooks], axis=-1)

    def locate(self, unit: int) -> tuple[str, int]:
        """Return the hook of a unit and its position there."""
        if not 0 <= unit < len(self):
            raise ValueError(f"`unit` is {unit} but `units` has length {len(self)}; count from 0")
        i = int(np.searchsorted(self.offsets, unit, side="right")) - 1
        return self.hooks[i], unit - int(self.offsets[i])

    @property
    def layers(self) -> Int[np.ndarray, "unit"]:
        """The layer of each unit."""
        return np.repeat([layer_of(hook) for hook in self.hooks], self.widths)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each unit."""
        return tuple(np.repeat([kind_of(hook) for hook in self.hooks], self.widths).tolist())

    @property
    def names(self) -> tuple[str, ...]:
        """The printed name of each unit: `L3N17` is neuron 17 of layer 3, `L2H1` head 1 of layer 2."""
        return tuple(
            f"L{layer_of(hook)}{KINDS[kind_of(hook)]}{i}"
            for hook, width in zip(self.hooks, self.widths, strict=True)
            for i in range(width)
        )

    def only(self, kinds: Iterable[str]) -> "Units":
        """Return the units of some kinds, as an axis of their own.

        Raises:
            ValueError: if a kind is unknown, or there are no such units.
        """
        wanted = set(kinds)
        for kind in wanted - set(KINDS):
            raise ValueError(f'unknown unit kind "{kind}"; use {" or ".join(KINDS)}')
        pairs = [(h, w) for h, w in zip(self.hooks, self.widths, strict=True) if kind_of(h) in wanted]
        if not pairs:
            raise ValueError(f"there are no units of kind {' or '.join(sorted(wanted))} on {', '.join(self.hooks)}")
        return Units(tuple(h for h, _ in pairs), tuple(w for _, w in pairs))

    def named(self, names: Iterable[str]) -> Bool[np.ndarray, "unit"]:
        """Select units by printed name.

        Raises:
            ValueError: if a name is unknown.
        """
        index = {name: i for i, name in enumerate(self.names)}
        selected = np.zeros(len(self), dtype=bool)
        for name in names:
            if name not in index:
                raise ValueError(f'unknown unit "{name}"; names run from {self.names[0]} to {self.names[-1]}')
            selected[index[name]] = True
        return selected

    def in_layers(self, layers: Iterable[int]) -> Bool[np.ndarray, "unit"]:
        """Select the units of some layers.

        Raises:
            ValueError: if a layer has no units.
        """
        wanted = list(layers)
        for layer in set(wanted) - set(self.layers.tolist()):
            raise ValueError(f"`layers` has {layer}, but units lie in layers {sorted(set(self.layers.tolist()))}")
        return np.isin(self.layers, wanted)

    def record(self) -> dict[str, list[Any]]:
        """Return a JSON form; `Units.from_record` reads it."""
        return {"hooks": list(self.hooks), "widths": list(self.widths)}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "Units":
        """Read what `record` wrote."""
        return Units(tuple(record["hooks"]), tuple(int(w) for w in record["widths"]))
