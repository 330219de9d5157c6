"""The face of the toy network: where its neurons are, how it is cut, saved and made anew."""

import copy
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.face import Chain, Face, Left, Weights
from skilloc.models.mlp import MLP, save_mlp
from skilloc.models.points import attached_to
from skilloc.tasks import Examples
from skilloc.units import neurons


def mlp_face(model: MLP) -> Face:
    """Return the face of a network: neurons only, a chain of linear maps, everything can be cut, saved, made anew."""
    linears = (*model.layers, model.out)
    hooks = tuple(model.hook_dict)
    hidden = list(enumerate(zip(hooks, linears[:-1], strict=True)))
    place = {hook: i for i, hook in enumerate(hooks)}

    def write(hook: str) -> Tensor:
        weight: Tensor = linears[_place(place, hook) + 1].weight
        return weight.T

    def group(hook: str) -> Weights:
        layer = linears[_place(place, hook)]
        parts = {"out.weight": write(hook), "in.weight": layer.weight, "in.bias": layer.bias}
        return {name: part.view(-1, 1, *part.shape[1:]) for name, part in parts.items()}

    def absorb(smaller: nn.Module, hook: str, added: Tensor, left: Left) -> None:
        after = hooks[place[hook] + 1 :]
        kept = torch.from_numpy(left[after[0]]).to(added.device) if after and after[0] in left else slice(None)
        bias = [*smaller.layers, smaller.out][place[hook] + 1].bias  # type: ignore[misc]
        bias += added[kept].to(bias)

    cfg = model.cfg
    return Face(
        module=model,
        architecture="MLP",
        banks=lambda: tuple(neurons(hook, len(linear.weight), i) for i, (hook, linear) in hidden),
        depth=len(model.layers),
        widest=max(cfg.d_out, *cfg.widths),
        run=lambda inputs: cast(Tensor, model(inputs)),
        attached=lambda functions: attached_to(model, functions),
        check=lambda examples: _check(model, examples),
        write=write,
        group=group,
        copy=lambda: copy.deepcopy(model),
        probe=lambda: torch.randint(2, (8, cfg.d_in), generator=torch.Generator().manual_seed(0)).to(model.out.weight),
        ends=(tuple(f"input {i}" for i in range(cfg.d_in)), tuple(f"logit {c}" for c in range(cfg.d_out))),
        # A class of somebody's own may compute something else.
        chain=Chain(linears, hooks, model.activation, cfg.activation) if type(model) is MLP else None,
        cut=lambda left: _cut(model, left),
        absorb=absorb,
        save=lambda folder, _, shape: _save(model, folder, shape),
        savable=lambda: None,
        fresh=lambda seed: MLP(
            cfg.d_in, cfg.d_out, cfg.widths, len(cfg.widths) + 1, activation=cfg.activation, seed=seed
        ).to(model.out.weight),
    )


def _place(places: dict[str, int], hook: str) -> int:
    if hook not in places:
        raise WrongValue(f'`hook` is "{hook}", but this MLP has {", ".join(places)}; see `units_of(model)`')
    return places[hook]


def _check(model: MLP, examples: Examples) -> None:
    d_in, d_out, inputs, targets = model.cfg.d_in, model.cfg.d_out, examples.inputs, examples.targets
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.ndim != 2 or inputs.shape[1] != d_in:
        given = examples.first
        raise WrongValue(
            f"`model` is an MLP with {d_in} inputs but the examples have {given.dtype} inputs of shape "
            f"{tuple(given.shape)}; draw from the subtasks that it was trained on"
        )
    if targets.ndim != 1 or not 0 <= int(targets.min()) <= int(targets.max()) < d_out:
        raise WrongValue(
            f"`model` is an MLP with {d_out} outputs but the examples have targets of shape {tuple(targets.shape)} "
            f"from {int(targets.min())} to {int(targets.max())}; pass one class per example"
        )


def _cut(model: MLP, left: Left) -> MLP:
    places = {hook: torch.from_numpy(left[hook]) if hook in left else None for hook in model.hook_dict}
    weights = [*model.layers, model.out]
    widths = [
        width if kept is None else len(kept) for width, kept in zip(model.cfg.widths, places.values(), strict=True)
    ]
    smaller = MLP(model.cfg.d_in, model.cfg.d_out, widths, len(weights), activation=model.cfg.activation)
    smaller.to(model.out.weight)
    before = [None, *places.values()]
    after = [*places.values(), None]
    with torch.no_grad():
        for old, new, columns, rows in zip(weights, [*smaller.layers, smaller.out], before, after, strict=True):
            weight, bias = old.weight, old.bias
            weight = weight if rows is None else weight[rows.to(weight.device)]
            bias = bias if rows is None else bias[rows.to(bias.device)]
            new.weight.copy_(weight if columns is None else weight[:, columns.to(weight.device)])
            new.bias.copy_(bias)
    return smaller


def headed(model: nn.Module, depth: int, weight: Float[Tensor, "d_out d_in"], bias: Float[Tensor, " d_out"]) -> MLP:
    """Return the first hidden layers of a network, with a head of one's own.

    Args:
        model: a network of this kind.
        depth: number of hidden layers that stay.
        weight: of the head.
        bias: of the head.
    """
    assert isinstance(model, MLP)
    cfg = model.cfg
    smaller = MLP(cfg.d_in, len(bias), cfg.widths[:depth], depth + 1, activation=cfg.activation)
    smaller.to(model.out.weight)
    with torch.no_grad():
        for new, old in zip(smaller.layers, model.layers, strict=False):
            new.load_state_dict(old.state_dict())
        smaller.out.weight.copy_(weight)
        smaller.out.bias.copy_(bias)
    return smaller


def _save(model: MLP, folder: Path, shape: str) -> None:
    if shape != "as it is":
        raise WrongValue(f'`shape` is "{shape}", but the file of an MLP says all its widths; use "as it is"')
    save_mlp(model, folder)
