"""A pruned model in a form that plain transformers reads, whatever the widths of its layers: with units of zeros.

A unit whose weights are all zero does nothing, so a layer may have as many of them as a configuration asks for. Heads
that are added to a group read the keys of that group; keys that are added are zero, and so are the heads that read
them.
"""

import copy
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from skilloc.models.checkpoints import quiet
from skilloc.models.encoded import (
    Encoded,
    configured,
    cut_widths,
    difference,
    encode,
    stock_shapes,
    tolerance,
    with_widths,
)
from skilloc.models.narrow import key_groups
from skilloc.models.plain import by_output, fused_of, plain, unfuse
from skilloc.models.residual_cut import stream_widths
from skilloc.models.residual_cut import widened as wide_stream
from skilloc.models.unfolded import unfolded
from skilloc.models.weights import architecture, banks_of, component_of, group, unwrapped
from skilloc.models.wrapping import wrapped
from skilloc.units import HEAD, NEURON


def exported(model: Any, *, rectangular: bool) -> Encoded:
    """Return a model with units of zeros, so that its layers are as wide as one configuration says.

    Args:
        model: a bridge, pruned or not; it is left as it was.
        rectangular: as many units per layer as the widest layer has, as far as the configuration of this architecture
            has a word for that; else as many as the model was made with.

    Raises:
        ValueError: if plain transformers does not read it, or computes something else.
    """
    if stream_widths(model) is not None:
        model = wide_stream(model)
    config = configured(model.original_model)
    clean = unfolded(model, stock_shapes(config))
    if homeless := encode(clean).biases:
        raise ValueError(
            f"`model` has {homeless[0]}, for which a {architecture(model)} has no place (compatibility mode has folded "
            'biases into it); save it with shape="as it is", for open_model'
        )
    said = ""
    for wide in (*(_rectangles(clean, config) if rectangular else ()), config):
        try:
            found = encode(widened(clean, wide))
            off = difference(model, found)
            if found.stock and off <= tolerance(model):
                return found
            said = f"logits would differ by {off:.1g} of the largest"
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:  # sizes that do not go together here
            said = str(error).strip().partition("\n")[0][:160]
    raise ValueError(
        f"`model` is a {architecture(model)} that plain transformers cannot be given with units of zeros ({said}); "
        'save it with shape="as it is", for open_model'
    )


def _rectangles(model: Any, config: Any) -> Iterator[Any]:
    """Yield configurations with the widths of the widest layers: of all kinds that were cut, then of one of them."""
    cut, widest = cut_widths(model), {}
    for kind in (NEURON, HEAD):
        banks = [bank for bank in banks_of(model) if bank.kind == kind]
        if kind == NEURON and any(bank.name in cut for bank in banks):
            widest[kind] = max(bank.width for bank in banks), 0
        elif any(bank.name in cut for bank in banks):
            keys = [key_groups(model, bank.name) for bank in banks]
            each = max(bank.width // count for bank, count in zip(banks, keys, strict=True))
            widest[kind] = max(keys) * each, max(keys)
    for size in range(len(widest), 0, -1):
        for kinds in combinations(widest, size):
            found = with_widths(config, model, {kind: widest[kind] for kind in kinds})
            if found is not None:
                yield found


@torch.no_grad()
def widened(model: Any, config: Any) -> Any:
    """Return a model of other widths, with the weights of a pruned one and zeros as the rest.

    Args:
        model: a bridge.
        config: a configuration of its class, with at least as many units on every hook.

    Raises:
        ValueError: if a hook has more units than the configuration says.
    """
    made = blank(type(model.original_model), config, dtype=next(model.parameters()).dtype)
    own, given = plain(made).state_dict(), plain(model).state_dict()
    for name, value in own.items():
        if name in given and given[name].shape == value.shape:
            value.copy_(given[name])
    for block in made.blocks:
        for part in block._modules.values():
            if fused_of(part) is not None:
                unfuse(part)
    for bank in banks_of(made):
        if bank.kind == NEURON:
            _fill_neurons(made, model, bank.name)
        else:
            _fill_heads(made, model, bank.name)
    return made


def blank(kind: Any, config: Any, *, dtype: torch.dtype) -> Any:
    """Return the bridge of a model with the initial values of its class, drawn from torch's present generator."""
    with quiet():
        module = kind._from_config(copy.deepcopy(config), dtype=dtype, attn_implementation="eager")
    return wrapped(module.eval(), kind.__name__)


def _fill_neurons(wide: Any, narrow: Any, hook: str) -> None:
    given = group(narrow, hook)
    for name, view in group(wide, hook).items():
        count = len(given[name])
        if count > len(view):
            raise ValueError(f"{hook} has {count} units, but its layer would be {len(view)} wide")
        if count < len(view):
            view.zero_()
            view[:count] = given[name]


def _fill_heads(wide: Any, narrow: Any, hook: str) -> None:
    heads, before = (len(group(model, hook)["o.weight"]) for model in (wide, narrow))
    if heads == before:
        return
    size, keys, keys_before = int(wide.cfg.d_head), key_groups(wide, hook), key_groups(narrow, hook)
    each, each_before = heads // keys, before // keys_before
    if keys < keys_before or each < each_before:
        raise ValueError(f"{hook} has {before} heads on {keys_before} keys, which are more than {heads} on {keys}")
    parts = {name: [unwrapped(component_of(model, hook)._modules[name]) for model in (wide, narrow)] for name in "qkvo"}
    for name, (new, old) in parts.items():
        shape, shape_before = ((keys, -1, size), (keys_before, -1, size))
        tensors = [(by_output(new).T, by_output(old).T)] if name == "o" else [(by_output(new), by_output(old))]
        if name != "o" and new.bias is not None:
            tensors.append((new.bias, old.bias))
        for target, source in tensors:
            _place(target.unflatten(0, shape), source.unflatten(0, shape_before))  # type: ignore[no-untyped-call]


def _place(wide: Tensor, narrow: Tensor) -> None:
    """Fill a view, `key head d_head ...`, with a smaller one and zeros."""
    wide.zero_()
    wide[: narrow.shape[0], : narrow.shape[1]] = narrow
