"""Which weights of a decoder belong to a unit: the one place that knows.

A unit is one coupled group of weights, those that read for it and those that write for it; without any of them it is
silent. A neuron lives at the input of its MLP's output projection (`blocks.3.mlp.hook_post`), gated or not; a head at
z, the input of its attention's output projection (`blocks.3.attn.hook_z`). The weights are those of the bridge's own
components: where a checkpoint fuses projections (GPT-2, GPT-NeoX, Phi-3), transformer-lens runs on the parts that it
split off, and these parts are the ones that count here.
"""

from functools import cache
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.units import HEAD, NEURON, Bank, heads, neurons

_OUTPUT = {NEURON: "out", HEAD: "o"}
_PART = {NEURON: "mlp", HEAD: "attn"}
_HOOK = {NEURON: "mlp.hook_post", HEAD: "attn.hook_z"}


def banks_of(model: nn.Module) -> tuple[Bank, ...]:
    """Return the banks of a decoder that share one axis: the heads, then the neurons, of each layer in turn.

    Widths are read from the weights, not from the configuration, which goes stale when a model is pruned. A layer
    without attention or without an MLP has no units of that kind, and neither has one whose units cannot be told apart
    (a mixture of experts has no single output projection).
    """
    found = []
    for layer, block in enumerate(_blocks(model)):
        for kind, make in ((HEAD, heads), (NEURON, neurons)):
            hook = f"blocks.{layer}.{_HOOK[kind]}"
            if _PART[kind] in block._modules and has_output(model, hook):
                width = len(output_weight(model, hook))
                if kind == HEAD and width % int(model.cfg.d_head):  # type: ignore[union-attr, arg-type]
                    continue
                found.append(make(hook, width // (d_head_of(model, hook) if kind == HEAD else 1), layer))
    return tuple(found)


def output_weight(model: nn.Module, hook: str) -> Float[Tensor, "d_in d_model"]:
    """Return the weights through which the units of a hook write to the residual stream, as a view.

    Row n is what neuron n writes per unit of activation. Rows `d_head * h` to `d_head * (h + 1)` are those of head h.

    Raises:
        ValueError: if the hook has no such projection.
    """
    return _by_input(output_projection(model, hook))


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
    component = component_of(model, hook)
    kind = place_of(model, hook)[1]
    rows = _head_rows(model, hook) if kind == HEAD else _neuron_rows(model, hook)
    d_unit = d_head_of(model, hook) if kind == HEAD else 1
    parts = {f"{_OUTPUT[kind]}.weight": output_weight(model, hook)}
    for name in rows:
        projection = unwrapped(component._modules[name])
        parts[f"{name}.weight"] = _by_input(projection).T
        if projection.bias is not None:
            parts[f"{name}.bias"] = projection.bias
    return {name: part.view(-1, d_unit, *part.shape[1:]) for name, part in parts.items()}


def _neuron_rows(model: nn.Module, hook: str) -> list[str]:
    modules = component_of(model, hook)._modules
    if "solu" in (getattr(model.cfg, "act_fn", None) or ""):
        raise WrongValue(
            f"`model` is a {architecture(model)} with SoLU, which couples the neurons of a layer, so that no weights "
            "belong to one neuron alone; ablate at the hook instead"
        )
    rows = [name for name in ("gate", "in") if name in modules]
    if "in" not in rows:
        raise WrongValue(f"`hook` is {hook}, whose MLP has no input projection; this architecture is not known here")
    return rows


def _head_rows(model: nn.Module, hook: str) -> list[str]:
    modules = component_of(model, hook)._modules
    d_head, z = d_head_of(model, hook), len(output_weight(model, hook))
    if "q" not in modules or not hasattr(unwrapped(modules["q"]), "weight"):
        raise WrongValue(
            f"`model` is a {architecture(model)}, whose {hook} has no query projection of its own; "
            "ablate at the hook instead"
        )
    rows = []
    for name in ("q", "k", "v"):
        norm = unwrapped(modules[f"{name}_norm"]) if f"{name}_norm" in modules else None
        weight = getattr(norm, "weight", None)
        over_all_heads = weight is not None and weight.numel() != d_head
        if _by_input(unwrapped(modules[name])).shape[1] == z and not over_all_heads:
            rows.append(name)
    return rows


def norms_by_head(part: Any, name: str) -> nn.ModuleList | None:
    """Return the norms of queries ("q") or keys ("k") of an attention that has one for each head (StableLM)."""
    norm = part._modules.get(f"{name}_norm")
    inside = [] if norm is None else unwrapped(norm)._modules.values()
    return next((module for module in inside if isinstance(module, nn.ModuleList)), None)


def d_head_of(model: nn.Module, hook: str) -> int:
    """Return the entries of one head at z.

    Raises:
        ValueError: if the heads of this part are not all of one size.
    """
    config: Any = model.cfg
    width, d_head = len(output_weight(model, hook)), int(config.d_head)
    if width % d_head:
        raise WrongValue(
            f"`model` is a {architecture(model)}, whose {hook} is {width} wide, not a multiple of its {d_head} "
            'dimensions per head; ask for kinds=("neuron",)'
        )
    return d_head


def has_output(model: nn.Module, hook: str) -> bool:
    """Whether the units of a hook write through a single projection."""
    modules, name = component_of(model, hook)._modules, _OUTPUT[place_of(model, hook)[1]]
    return name in modules and getattr(getattr(unwrapped(modules[name]), "weight", None), "ndim", 0) == 2


def output_projection(model: nn.Module, hook: str) -> Any:
    """Return the module through which the units of a hook write.

    Raises:
        ValueError: if they write through several, or through quantised weights.
    """
    component = component_of(model, hook)
    kind = place_of(model, hook)[1]
    name = _OUTPUT[kind]
    projection = unwrapped(component._modules[name]) if name in component._modules else None
    if projection is None or getattr(getattr(projection, "weight", None), "ndim", 0) != 2:
        other = HEAD if kind == NEURON else NEURON
        raise WrongValue(
            f"`model` is a {architecture(model)}, whose {hook.rpartition('.')[0]} ({type(component).__name__}) has no "
            f'single output projection and so no {kind}s that could be told apart; ask for kinds=("{other}",)'
        )
    if not projection.weight.is_floating_point():
        raise WrongValue(f"`model` is quantised: {hook} has {projection.weight.dtype} weights; open it in float32")
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
    layer, kind = place_of(model, hook)
    blocks, part = _blocks(model), _PART[kind]
    if part not in blocks[layer]._modules:
        raise WrongValue(f'`hook` is "{hook}", but {architecture(model)} has no such part; see `units_of(model)`')
    return blocks[layer]._modules[part]


def place_of(model: nn.Module, hook: str) -> tuple[int, str]:
    """Return the layer of a hook that units live on, and their kind.

    Raises:
        ValueError: if no units live there.
    """
    places = _places(len(_blocks(model)))
    if hook not in places:
        raise WrongValue(f'`hook` is "{hook}", but {architecture(model)} has no such part; see `units_of(model)`')
    return places[hook]


@cache
def _places(depth: int) -> dict[str, tuple[int, str]]:
    return {f"blocks.{layer}.{_HOOK[kind]}": (layer, kind) for layer in range(depth) for kind in (HEAD, NEURON)}


def _blocks(model: nn.Module) -> Any:
    if "blocks" not in model._modules:
        raise WrongValue(f"`model` is a {architecture(model)} without a list of blocks; pass a decoder's bridge")
    return model._modules["blocks"]


def unwrapped(module: Any) -> Any:
    """Return the module that a bridge component wraps, however deep, or the module itself."""
    while isinstance(getattr(module, "original_component", None), nn.Module):
        module = module.original_component
    return module


def architecture(model: nn.Module) -> str:
    """Return the name of the class that a bridge wraps, for messages."""
    return type(getattr(model, "original_model", model)).__name__
