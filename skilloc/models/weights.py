"""Which weights belong to a unit: the one place that knows.

A unit is one coupled group of weights, those that read for it and those that write for it; without any of them it is
silent. A neuron lives at the input of its MLP's output projection (`blocks.3.mlp.hook_post`), gated or not; a head at
z, the input of its attention's output projection (`blocks.3.attn.hook_z`). The weights are those of the bridge's own
components: where a checkpoint fuses projections (GPT-2, GPT-NeoX, Phi-3), transformer-lens runs on the parts that it
split off, and these parts are the ones that count here. In an `MLP`, the neurons of a hidden layer live at
`layers.3.hook_post`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.models.mlp import MLP
from skilloc.units import KINDS, Units, kind_of, layer_of

_OUTPUT = {"neuron": "out", "head": "o"}
_PART = {"neuron": "mlp", "head": "attn"}


def units_of(model: nn.Module, *, kinds: Iterable[str] = tuple(KINDS)) -> Units:
    """Return the unit axis of a model: the heads, then the neurons, of each layer in turn.

    Widths are read from the weights, not from the configuration, which goes stale when a model is pruned. A layer
    without attention or without an MLP has no units of that kind.

    Args:
        model: a `TransformerBridge`, or an `MLP`, which has neurons only.
        kinds: "neuron", "head", or both.

    Raises:
        ValueError: if a kind is unknown, the model has no units of these kinds, or they cannot be told apart (a mixture
            of experts has no single output projection).
    """
    wanted = set(kinds)
    for kind in wanted - set(KINDS):
        raise ValueError(f'unknown unit kind "{kind}"; use {" or ".join(KINDS)}')
    if isinstance(model, MLP):
        if "neuron" not in wanted:
            raise ValueError('`model` is an MLP, which has no heads; use kinds=("neuron",)')
        return Units(tuple(model.hook_dict), tuple(len(layer.weight) for layer in _linears(model)[:-1]))
    widths = {}
    for layer, block in enumerate(_blocks(model)):
        for kind in ("head", "neuron"):
            part = _PART[kind]
            if kind in wanted and part in block._modules:
                hook = f"blocks.{layer}.{part}.hook_{'z' if kind == 'head' else 'post'}"
                widths[hook] = len(output_weight(model, hook)) // (_d_head(model, hook) if kind == "head" else 1)
    if not widths:
        raise ValueError(
            f"`model` is a {_architecture(model)}, which has no units of kind {' or '.join(sorted(wanted))}; "
            "use a decoder with attention and dense MLPs"
        )
    return Units(tuple(widths), tuple(widths.values()))


def output_weight(model: nn.Module, hook: str) -> Float[Tensor, "d_in d_model"]:
    """Return the weights through which the units of a hook write to the residual stream, or to the next layer of an
    `MLP`, as a view.

    Row n is what neuron n writes per unit of activation. Rows `d_head * h` to `d_head * (h + 1)` are those of head h.

    Raises:
        ValueError: if the hook has no such projection.
    """
    if isinstance(model, MLP):
        weight: Tensor = _linears(model)[_hidden(model, hook) + 1].weight
        return weight.T
    return _by_input(_output_projection(model, hook))


def group(model: nn.Module, hook: str) -> dict[str, Float[Tensor, "unit d_unit *d_model"]]:
    """Return all weights of the units of a hook, by name: views `unit d_unit d_model`, biases `unit d_unit`.

    `d_unit` is the head dimension for a head, and 1 for a neuron.

    A neuron has its rows of the projections into the MLP (gate and up, or one), their biases, and its column of the
    output projection. A head has its rows of the query, key and value projections, their biases, and its slice of the
    output projection. Left out, since they serve more than one unit:

    - keys and values that several heads share (grouped-query attention): each is read by all heads of its group;
    - queries or keys that are normalised over all heads at once (OLMo 2): without one head's, the others would change;
    - the bias of the output projection, which no unit scales.

    So the norm of unit n's group is `sqrt(sum(part[n].square().sum() for part in group(model, hook).values()))`, and
    the norms of all units come from the same expression over the other axes. Writing to a view writes to the model.

    Raises:
        ValueError: if the hook has no such weights, or its units are coupled through the activation (SoLU).
    """
    if isinstance(model, MLP):
        layer = _linears(model)[_hidden(model, hook)]
        parts = {"out.weight": output_weight(model, hook), "in.weight": layer.weight, "in.bias": layer.bias}
        return {name: part.view(-1, 1, *part.shape[1:]) for name, part in parts.items()}
    component = component_of(model, hook)
    rows = _head_rows(model, hook) if kind_of(hook) == "head" else _neuron_rows(model, hook)
    d_unit = _d_head(model, hook) if kind_of(hook) == "head" else 1
    parts = {f"{_OUTPUT[kind_of(hook)]}.weight": output_weight(model, hook)}
    for name in rows:
        projection = unwrapped(component._modules[name])
        parts[f"{name}.weight"] = _by_input(projection).T
        if projection.bias is not None:
            parts[f"{name}.bias"] = projection.bias
    return {name: part.view(-1, d_unit, *part.shape[1:]) for name, part in parts.items()}


@contextmanager
def zeroed(model: nn.Module, hook: str, index: int | Sequence[int]) -> Iterator[None]:
    """Silence units by zeroing all their weights (`group`), and put every bit back on leaving.

    The model then computes what it computes when the activations of these units are held at zero.

    Args:
        model: a `TransformerBridge` or an `MLP`; changed in place until the context is left.
        hook: where the units live.
        index: position, or positions, on that hook.

    Raises:
        ValueError: if the hook has no such weights, or has no unit at `index`.
    """
    views = group(model, hook)
    positions = [index] if isinstance(index, int) else list(index)
    width = len(next(iter(views.values())))
    for position in positions:
        if not 0 <= position < width:
            raise ValueError(f"`index` is {position}, but {hook} has {width} units; count from 0")
    with torch.no_grad():
        saved = {name: view[positions].clone() for name, view in views.items()}
        for view in views.values():
            view[positions] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            for name, view in views.items():
                view[positions] = saved[name]


def _linears(model: MLP) -> list[Any]:
    return [*model.layers, model.out]


def _hidden(model: MLP, hook: str) -> int:
    if hook not in model.hook_dict:
        raise ValueError(f'`hook` is "{hook}", but this MLP has {", ".join(model.hook_dict)}; see `units_of(model)`')
    return layer_of(hook)


def _neuron_rows(model: nn.Module, hook: str) -> list[str]:
    modules = component_of(model, hook)._modules
    if "solu" in (getattr(model.cfg, "act_fn", None) or ""):
        raise ValueError(
            f"`model` is a {_architecture(model)} with SoLU, which couples the neurons of a layer, so that no weights "
            "belong to one neuron alone; ablate at the hook instead"
        )
    rows = [name for name in ("gate", "in") if name in modules]
    if "in" not in rows:
        raise ValueError(f"`hook` is {hook}, whose MLP has no input projection; this architecture is not known here")
    return rows


def _head_rows(model: nn.Module, hook: str) -> list[str]:
    modules = component_of(model, hook)._modules
    d_head, z = _d_head(model, hook), len(output_weight(model, hook))
    if "q" not in modules or not hasattr(unwrapped(modules["q"]), "weight"):
        raise ValueError(
            f"`model` is a {_architecture(model)}, whose {hook} has no query projection of its own; "
            "ablate at the hook instead"
        )
    rows = []
    for name in ("q", "k", "v"):
        norm = unwrapped(modules[f"{name}_norm"]) if f"{name}_norm" in modules else None
        over_all_heads = norm is not None and norm.weight.numel() != d_head
        if _by_input(unwrapped(modules[name])).shape[1] == z and not over_all_heads:
            rows.append(name)
    return rows


def _d_head(model: nn.Module, hook: str) -> int:
    config: Any = model.cfg
    width, d_head = len(output_weight(model, hook)), int(config.d_head)
    if width % d_head:
        raise ValueError(
            f"`model` is a {_architecture(model)}, whose {hook} is {width} wide, not a multiple of its {d_head} "
            'dimensions per head; ask for kinds=("neuron",)'
        )
    return d_head


def _output_projection(model: nn.Module, hook: str) -> Any:
    component = component_of(model, hook)
    name = _OUTPUT[kind_of(hook)]
    projection = unwrapped(component._modules[name]) if name in component._modules else None
    if projection is None or getattr(getattr(projection, "weight", None), "ndim", 0) != 2:
        other = "head" if kind_of(hook) == "neuron" else "neuron"
        raise ValueError(
            f"`model` is a {_architecture(model)}, whose {hook.rpartition('.')[0]} ({type(component).__name__}) has no "
            f'single output projection and so no {kind_of(hook)}s that could be told apart; ask for kinds=("{other}",)'
        )
    if not projection.weight.is_floating_point():
        raise ValueError(f"`model` is quantised: {hook} has {projection.weight.dtype} weights; open it in float32")
    return projection


def _by_input(projection: Any) -> Float[Tensor, "d_in d_out"]:
    # GPT-2 keeps its projections as Conv1D, [d_in, d_out]; everything else is a Linear, [d_out, d_in].
    weight: Tensor = projection.weight
    return weight if type(projection).__name__ == "Conv1D" else weight.T


def component_of(model: nn.Module, hook: str) -> Any:
    """Return the part of a bridge in which the units of a hook live: the attention, or the MLP, of a block.

    Raises:
        ValueError: if the model has no such part.
    """
    blocks, layer, part = _blocks(model), layer_of(hook), _PART[kind_of(hook)]
    if layer >= len(blocks) or part not in blocks[layer]._modules:
        raise ValueError(f'`hook` is "{hook}", but {_architecture(model)} has no such part; see `units_of(model)`')
    return blocks[layer]._modules[part]


def _blocks(model: nn.Module) -> Any:
    if "blocks" not in model._modules:
        raise ValueError(f"`model` is a {_architecture(model)} without a list of blocks; pass a decoder's bridge")
    return model._modules["blocks"]


def unwrapped(module: Any) -> Any:
    """Return the module that a bridge component wraps, however deep, or the module itself."""
    while isinstance(getattr(module, "original_component", None), nn.Module):
        module = module.original_component
    return module


def _architecture(model: nn.Module) -> str:
    return type(getattr(model, "original_model", model)).__name__
