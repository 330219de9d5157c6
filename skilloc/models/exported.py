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

from skilloc.mistakes import WrongValue
from skilloc.models.cutting import key_groups
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
from skilloc.models.reading import quiet
from skilloc.models.residual_cut import stream_widths
from skilloc.models.residual_cut import widened as wide_stream
from skilloc.models.unfolded import unfolded
from skilloc.models.unwrapped import by_output, fused_of, plain, unfuse
from skilloc.models.weights import architecture, banks_of, component_of, group, norms_by_head, unwrapped
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
    whole = model if stream_widths(model) is None else wide_stream(model)
    config = configured(whole.original_model)
    clean = unfolded(whole, stock_shapes(config))
    encoded = encode(clean)
    if homeless := encoded.biases:
        raise WrongValue(
            f"`model` has {homeless[0]}, for which a {architecture(model)} has no place (compatibility mode has folded "
            'biases into it); save it with shape="as it is", for open_model'
        )
    cut, said = cut_widths(clean), ""
    # A model that is as wide as its configuration says needs no zeros.
    wider = (*(_rectangles(clean, config) if rectangular else ()), config) if cut else (None,)
    for wide in wider:
        try:
            found = encoded if wide is None else encode(widened(clean, wide))
            off = difference(model, found)
            if found.stock and off <= tolerance(model):
                return found
            said = f"logits would differ by {off:.1g} of the largest"
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:  # sizes that do not go together here
            said = str(error).strip().partition("\n")[0][:160]
    raise WrongValue(
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
    with torch.random.fork_rng(devices=[]):  # initial values, to be overwritten
        made = blank(model, config)
    own, given = plain(made).state_dict(), plain(model).state_dict()
    for name, value in own.items():
        if name in given and given[name].shape == value.shape:
            value.copy_(given[name])
    for block in made.blocks:
        for part in block._modules.values():
            if fused_of(part) is not None:
                unfuse(part)
    widths = {bank.name: bank.width for bank in banks_of(model)}
    for bank in banks_of(made):
        if bank.width < widths[bank.name]:
            raise WrongValue(f"{bank.name} has {widths[bank.name]} units, but its layer would be {bank.width} wide")
        if bank.width > widths[bank.name]:
            (_fill_neurons if bank.kind == NEURON else _fill_heads)(made, model, bank.name)
    return made


def blank(model: Any, config: Any) -> Any:
    """Return a bridge of the class, type and device of another one, with initial values from torch's generator."""
    kind, like = type(model.original_model), next(model.parameters())
    with quiet():
        module = kind._from_config(copy.deepcopy(config), dtype=like.dtype, attn_implementation="eager")
    return wrapped(module.eval().to(like.device), kind.__name__)


def _fill_neurons(wide: Any, narrow: Any, hook: str) -> None:
    given = group(narrow, hook)
    for name, view in group(wide, hook).items():
        view.zero_()
        view[: len(given[name])] = given[name]


def _fill_heads(wide: Any, narrow: Any, hook: str) -> None:
    """Put the heads of each key first in its group, and groups first among groups."""
    size, parts = int(wide.cfg.d_head), (component_of(wide, hook), component_of(narrow, hook))
    keys = key_groups(wide, hook), key_groups(narrow, hook)
    for name in "qkvo":
        new, old = (unwrapped(part._modules[name]) for part in parts)
        pairs = [(by_output(new).T, by_output(old).T)] if name == "o" else [(by_output(new), by_output(old))]
        if name != "o" and new.bias is not None:
            pairs.append((new.bias, old.bias))
        for target, source in pairs:
            given = source.unflatten(0, (keys[1], -1, size))  # type: ignore[no-untyped-call]
            _fill(target.unflatten(0, (keys[0], -1, size)), given)  # type: ignore[no-untyped-call]
        if name in "qk" and (norms := norms_by_head(parts[0], name)) is not None:
            few = norms_by_head(parts[1], name)
            assert few is not None
            each = len(few) // keys[1]
            for i, norm in enumerate(few):
                place = i // each * (len(norms) // keys[0]) + i % each
                norms[place].load_state_dict(norm.state_dict())


def _fill(wide: Tensor, narrow: Tensor) -> None:
    """Fill a view, `key head d_head ...`, with a smaller one and zeros."""
    if wide.shape[0] < narrow.shape[0] or wide.shape[1] < narrow.shape[1]:
        raise WrongValue(f"{narrow.shape[1]} heads on each of {narrow.shape[0]} keys do not fit")
    wide.zero_()
    wide[: narrow.shape[0], : narrow.shape[1]] = narrow
