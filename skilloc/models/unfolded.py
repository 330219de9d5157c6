"""Write a bridge in compatibility mode with the weights that its architecture has.

`enable_compatibility_mode` folds the gain g and the shift of a norm into the projections that read it, and the biases
of values into those of the output. Projections then have biases for which the architecture has no place. They go back
to where it has one, and the model computes what it computed:

- The output of a LayerNorm before gain and shift, n, has mean zero. So a projection W that reads g n + shift may have
  any vector u added times the row 1/g: (W + u 1/g^T) (g n) = W g n. With all ones as shift, it gives besides
  W 1 + u sum(1/g), and u is chosen so that this is the bias.
- A bias of the output that is a combination of what heads write is a bias of their values.
"""

from collections.abc import Mapping
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn

from skilloc.models.copying import copied
from skilloc.models.unwrapped import by_output, fused_of, plain
from skilloc.models.weights import unwrapped

_READERS = (("attn", ("q", "k", "v")), ("mlp", ("gate", "in")))


@torch.no_grad()
def unfolded(model: Any, stock: Mapping[str, torch.Size]) -> Any:
    """Return a bridge whose weights are all of its architecture, as far as can be; the same one if they are already.

    Args:
        model: a bridge; it is left as it was.
        stock: shapes of the weights that its architecture has, by name.
    """
    homes = _homes(model, stock)
    if not any(_homeless(part, homes) for part in _projections(model)):
        return model
    made = copied(model)
    homes = _homes(made, stock)
    for block in made._modules.get("blocks", ()):
        parts = block._modules
        if "attn" in parts:
            _move_to_values(made, parts["attn"], homes)
        readers = [_named(parts.get(part), names) for part, names in _READERS]
        if "ln2" in parts:
            _move_to_norm(parts.get("ln1"), readers[0], homes)
            _move_to_norm(parts["ln2"], readers[1], homes)
        else:
            _move_to_norm(parts.get("ln1"), readers[0] + readers[1], homes)
    if "ln_final" in made._modules:
        _move_to_norm(made.ln_final, [unwrapped(made.unembed)], homes)
    return made


def _named(part: Any, names: tuple[str, ...]) -> list[Any]:
    modules = getattr(part, "_modules", {})
    found = [unwrapped(modules[name]) for name in names if name in modules]
    return [module for module in found if getattr(getattr(module, "weight", None), "ndim", 0) == 2]


def _projections(model: Any) -> list[Any]:
    found = [unwrapped(model.unembed)] if "unembed" in model._modules else []
    for block in model._modules.get("blocks", ()):
        for part, names in (*_READERS, ("attn", ("o",)), ("mlp", ("out",))):
            found += _named(block._modules.get(part), names)
    return found


def _homes(model: Any, stock: Mapping[str, torch.Size]) -> set[int]:
    """Return the ids of all modules for whose bias the architecture has a place, parts of fused ones included."""
    copies: dict[int, Any] = {}
    names = {id(part): name for name, part in plain(model, copies).named_modules()}
    inner = [unwrapped(module) for module in model.original_model.modules()]
    found = {id(one) for one in inner if f"{names.get(id(copies.get(id(one))))}.bias" in stock}
    for block in model._modules.get("blocks", ()):
        for part, of in _READERS:
            if id(fused_of(block._modules.get(part))) in found:
                found.update(map(id, _named(block._modules[part], of)))
    return found


def _homeless(projection: Any, homes: set[int]) -> bool:
    bias = getattr(projection, "bias", None)
    return bias is not None and bool(bias.any()) and id(projection) not in homes


def _move_to_values(model: Any, attn: Any, homes: set[int]) -> None:
    """Make a bias of the output one of the values: b_o = sum over heads h of W_o[h] b_v[key of h]."""
    found = _named(attn, ("v", "o"))
    if len(found) < 2 or not _homeless(found[1], homes) or found[0].bias is None:
        return
    values, output = found
    write = by_output(output).double()
    size, keys = int(model.cfg.d_head), len(by_output(values)) // int(model.cfg.d_head)
    if not keys or write.shape[1] % (keys * size):
        return
    shared = reduce(write, "out (key query size) -> out (key size)", "sum", key=keys, size=size)
    wanted = output.bias.double()
    moved = torch.linalg.lstsq(shared, wanted[:, None], driver="gelsd").solution[:, 0]
    if (shared @ moved - wanted).abs().max() <= 1e-5 * wanted.abs().max():
        values.bias += moved.to(values.bias)
        output.bias.zero_()


def _move_to_norm(norm: Any, readers: list[Any], homes: set[int]) -> None:
    """Make the biases of what reads a norm its shift, which becomes all ones."""
    own = unwrapped(norm)
    if id(own) not in homes or not isinstance(own, nn.LayerNorm) or not bool((own.weight != 0).all()):
        return
    if not any(_homeless(reader, homes) for reader in readers):
        return
    gain, shift = own.weight.double(), own.bias.double()
    for reader in readers:
        weight = by_output(reader).double()
        wanted: Tensor = weight @ shift
        if _homeless(reader, homes):
            wanted = wanted + reader.bias.double()
            reader.bias.zero_()
        extra = (wanted - weight.sum(dim=1)) / gain.reciprocal().sum()
        by_output(reader).copy_(weight + extra[:, None] * gain.reciprocal())
    own.bias.fill_(1.0)
