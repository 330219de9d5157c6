"""Where the residual stream of a decoder lies: which modules write to it or read it, along which axes of their weights.

Modules are known by their place in transformer-lens' bridge. A model that has weights as wide as the stream anywhere
else is refused: something would write to a coordinate, or read it, unseen.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.models.unwrapped import fused_of, outputs, transposed
from skilloc.models.weights import architecture, unwrapped

TABLE, WRITE, READ, NORM, POST, MIXTURE = "table", "write", "read", "norm", "post-norm", "mixture"

_TABLES = ("embed", "pos_embed")
_LAST = ("ln_final", "project_out", "unembed")
_WRITES = ("o", "out", "dense_out", "out_proj")
_READS = ("q", "k", "v", "gate", "in", "dense_gate", "dense_in", "in_proj", "q_proj", "q_a_proj", "kv_a_proj_with_mqa")
_INNER = ("q_norm", "k_norm", "q_a_layernorm", "q_b_proj", "kv_a_layernorm", "kv_b_proj", "conv1d", "x_proj", "dt_proj")
"""Parts of an attention, an MLP or a state-space layer, by their role; the last see nothing of the stream itself."""

_EXPERTS_WRITE = ("down_proj", "output_linear", "w2", "fc2")


class Part(NamedTuple):
    """A module that has coordinates of the residual stream.

    Attributes:
        name: of the bridge's component.
        component: the bridge's component.
        module: what it wraps.
        role: how it has them.
        hook: the hook at its output.
    """

    name: str
    component: Any
    module: Any
    role: str
    hook: str


class Place(NamedTuple):
    """A weight, one axis of which is the residual stream.

    Attributes:
        name: of the weight.
        owner: the module that has it.
        attribute: what it is called there.
        axis: of the coordinates.
    """

    name: str
    owner: Any
    attribute: str
    axis: int

    @property
    def weight(self) -> Tensor:
        """The weight itself."""
        found: Tensor = self.owner._parameters[self.attribute]
        return found


def width_of(model: Any) -> int:
    """Return the width of the residual stream, read from the weights: the configuration goes stale when it is cut.

    Raises:
        ValueError: if no part of the model is known to write to the stream.
    """
    for _, _, part in sublayers(model):
        for child in _WRITES:
            projection = unwrapped(part._modules[child]) if child in part._modules else None
            if getattr(getattr(projection, "weight", None), "ndim", 0) == 2:
                return outputs(projection)
    raise unknown(model, "blocks")


def parts_of(model: Any) -> list[Part]:
    """Return all modules that have coordinates of the residual stream.

    Raises:
        ValueError: if there are weights as wide as the stream elsewhere.
    """
    width = width_of(model)
    ends = list(_ends(model, width))
    found = [part for part in ends if part.name not in _LAST]
    inner: list[Any] = []
    for layer, name, component in sublayers(model):
        if hasattr(component, "hook_normalized"):
            role = POST if name.endswith("_post") else NORM
            found.append(Part(name, component, unwrapped(component), role, _norm_hook(model, layer, name)))
        elif projections := list(_projections(name, component)):
            found += projections
            inner += [component, unwrapped(component), fused_of(component)]
            inner += [unwrapped(child) for key, child in component._modules.items() if key in _INNER]
    found += [part for part in ends if part.name in _LAST]
    _check_complete(model, width, found, inner)
    return found


def places_of(model: Any, part: Part) -> Iterator[Place]:
    """Yield the weights of a part that have the residual stream as an axis.

    Raises:
        ValueError: if a weight of a mixture of experts has another shape than its name says.
    """
    if part.role == MIXTURE:
        yield from _experts(model, part)
        return
    own = part.module._parameters
    if part.role in (WRITE, READ):
        yield Place(f"{part.name}.weight", part.module, "weight", int(transposed(part.module) == (part.role == WRITE)))
    elif own.get("weight") is not None:
        yield Place(f"{part.name}.weight", part.module, "weight", int(part.role == TABLE))
    if part.role in (WRITE, NORM, POST) and own.get("bias") is not None:
        yield Place(f"{part.name}.bias", part.module, "bias", 0)


def fused_places(model: Any) -> Iterator[Place]:
    """Yield the fused matrices of which some projections were split off; nothing runs on them, but they are saved."""
    for _, name, component in sublayers(model):
        fused = None if hasattr(component, "hook_normalized") else fused_of(component)
        if fused is not None:
            yield Place(f"{name}.fused.weight", fused, "weight", int(not transposed(fused)))


def _ends(model: Any, width: int) -> Iterator[Part]:
    """Yield what lies before and after the blocks."""
    modules = model._modules
    for name, component in modules.items():
        role = ""
        if hasattr(component, "hook_normalized"):
            role = NORM
        elif name in _TABLES and getattr(unwrapped(component), "weight", None) is not None:
            # An embedding that is narrower than the stream is projected into it (OPT-350m).
            role = TABLE if unwrapped(component).weight.shape[1] == width else ""
        elif name in ("project_in", "project_out"):
            role = WRITE if name == "project_in" else READ
        elif name == "unembed" and "project_out" not in modules:
            role = READ
        elif name in _TABLES:
            raise unknown(model, name)
        if role:
            yield Part(name, component, unwrapped(component), role, f"{name}.hook_out")


def sublayers(model: Any) -> Iterator[tuple[int, str, Any]]:
    """Yield the norms and the parts of all blocks: layer, name, component."""
    for layer, block in enumerate(model._modules.get("blocks", ())):
        for name, component in block._modules.items():
            if name == "_original_component" or not hasattr(component, "hook_out"):
                continue
            yield layer, f"blocks.{layer}.{name}", component


def _projections(name: str, component: Any) -> Iterator[Part]:
    """Yield what reads and writes in an attention, an MLP or a state-space layer; a mixture of experts is one part."""
    children = component._modules
    if not any(child in children for child in _WRITES):
        if name.endswith(".mlp"):
            yield Part(name, component, unwrapped(component), MIXTURE, f"{name}.hook_out")
        return
    for child in (*_READS, *_WRITES):
        if child in children:
            role, module = READ if child in _READS else WRITE, unwrapped(children[child])
            yield Part(f"{name}.{child}", children[child], module, role, f"{name}.{child}.hook_out")


def _norm_hook(model: Any, layer: int, name: str) -> str:
    block = unwrapped(model.blocks[layer])
    if name.endswith("ln2") and getattr(block, "do_layer_norm_before", True) is False:
        # A hook on this norm would flatten what leaves the block; it is the last thing in it, so the block's does.
        return f"blocks.{layer}.hook_out"
    return f"{name}.hook_out"


def _experts(model: Any, part: Part) -> Iterator[Place]:
    """Yield the weights of a mixture of experts: routers and inputs read, outputs and their biases write."""
    width = width_of(model)
    for path, weight in part.module.named_parameters():
        clean = path.replace("_original_component.", "")
        words = clean.split(".")
        owner = part.module.get_submodule(path.rpartition(".")[0])
        kind = next((word.removesuffix("_bias") for word in reversed(words) if word not in ("weight", "bias")), "")
        writes, is_bias = kind in _EXPERTS_WRITE, words[-1].endswith("bias")
        if is_bias and not writes:
            continue
        flipped = weight.ndim == 3 and bool(getattr(owner, "is_transposed", False))
        axis = weight.ndim - 1 if is_bias or writes == flipped else weight.ndim - 2
        if weight.ndim < 1 + (not is_bias) or weight.shape[axis] != width:
            if width in weight.shape:
                raise unknown(model, f"{part.name}.{clean}")
            continue
        yield Place(f"{part.name}.{clean}", owner, words[-1], axis)


def _check_complete(model: Any, width: int, parts: list[Part], inner: list[Any]) -> None:
    """Refuse a model that has weights as wide as the stream outside of the parts that are known."""
    known = {id(module) for module in inner} | {id(part.module) for part in parts}
    known |= {id(module) for part in parts if part.role == MIXTURE for module in part.module.modules()}
    for name, module in model.original_model.named_modules():
        # A matrix among the buffers may be a table too (positions that are computed, not learned).
        tables = [(key, value) for key, value in module._buffers.items() if value is not None and value.ndim == 2]
        for key, weight in (*module._parameters.items(), *tables):
            if weight is not None and width in weight.shape and id(module) not in known:
                raise unknown(model, f"{name}.{key}".replace("_original_component.", ""))


def unknown(model: Any, name: str) -> ValueError:
    """Return the error that refuses a model."""
    return WrongValue(
        f"`model` is a {architecture(model)}, and it is not known where in its {name} the residual stream lies; ask "
        'for units of other kinds than "residual"'
    )
