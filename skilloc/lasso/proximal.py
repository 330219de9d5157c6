"""The rule that acts after each optimiser step: shrinks groups to exact zeros, steers the strength, counts.

A penalty in the loss makes groups small, but none exactly zero. The proximal step after each optimiser step does: it
scales group u from its norm r to `shrunk(r)` with the step that the optimiser itself takes there,

    SGD           step[u] = strength * rate / (1 - momentum)
    Adam, AdamW   step[u] = strength * rate / (mean over the group's weights of sqrt(v_hat) + eps),
                  at most rate * sqrt(number of weights), as far as Adam itself can move a group

so that a group rests where its gradient and the penalty's are equal, whatever the optimiser; with Adam that is exact
where sqrt(v_hat) is alike over a group. (Adam's real step on a gradient g is rate g / sqrt(v_hat): a plain
rate * strength would do next to nothing beside it.) A group that reaches zero loses its momentum too, which would
bring it back; Adam's v_hat, which only scales, stays.

Where a weight lies in two groups (a weight between two hidden layers of an `MLP`), hooks act in turn, in forward order.
That is the proximal map of the sum to first order in the step; zeros stay zeros, since later groups only scale.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from skilloc.lasso.norms import Parts, norms_of, parts_of
from skilloc.lasso.penalties import penalty_of, shrunk
from skilloc.lasso.settings import LocalizeConfig
from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of
from skilloc.units import Units

GAIN = 0.5
"""How far an evaluation moves the log of the strength: by this times the log of what is wanted over what is, within
+-1."""


class Lasso:
    """A rule of `training.train`: the proximal step, the strength's controller, and columns of the history.

    Attributes:
        strength: of the penalty, now.
        revivals: how often a group that was zero after one step was not zero after the next.
    """

    def __init__(self, model: nn.Module, units: Units, config: LocalizeConfig, kept: Sequence[str]) -> None:
        """Look at the groups of a model.

        Args:
            model: the model that is trained.
            units: whose groups.
            config: the settings.
            kept: names of the kept subtasks in the history.

        Raises:
            ValueError: if units have no groups, or some of the groups' weights are frozen.
        """
        self.strength, self.revivals, self._push = config.strength, 0, config.strength
        self._config, self._kept = config, tuple(kept)
        self._proximal = config.solver == "proximal"
        self._face = face_of(model)
        with torch.no_grad():
            self._parts: dict[str, Parts] = {hook: parts_of(self._face, hook) for hook in units.hooks}
        self._owners = {
            hook: {name: _owner(model, part) for name, part in parts.items()} for hook, parts in self._parts.items()
        }
        self._dead = self._zeros()

    def term(self, _: nn.Module) -> Float[Tensor, ""]:
        """Return strength * penalty of the model, for the loss."""
        # The views of the first look know no gradient.
        return self.strength * penalty_of((self._face.group(hook) for hook in self._parts), self._config.penalty)

    @torch.no_grad()
    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Take a proximal step."""
        if not self._proximal or self.strength == 0:
            return
        alive = sum(int((~dead).sum()) for dead in self._dead.values())
        spare = alive - (self._config.wanted_live or 0)
        for hook, parts in self._parts.items():
            step = self._step_sizes(hook, optimiser)
            dead, norms = self._dead[hook], norms_of(parts)
            if self._config.penalty == "l1":
                _shrink_entries(parts, step)
                new = norms_of(parts)
            else:
                new = _spared(norms, shrunk(norms, step, self._config.penalty), dead, spare)
                scale = new / torch.where(norms > 0, norms, 1)
                for part in parts.values():
                    part *= scale.view(-1, *[1] * (part.ndim - 1))
            zero = new == 0
            fresh = zero & (norms > 0)
            for momentum in self._momenta(hook, optimiser) if fresh.any() else ():
                momentum[fresh] = 0
            self.revivals += int((dead & ~zero).sum())
            spare -= int((zero & ~dead).sum())
            self._dead[hook] = zero
        if self._config.wanted_live is not None and spare <= 0:
            self.strength = 0.0

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Return the penalty, the strength with which the steps before were taken, and counts; then steer it."""
        live, per_hook = self.live()
        with torch.no_grad():
            value = self.strength * float(penalty_of(self._parts.values(), self._config.penalty))
        found = {"penalty": value, "strength": self.strength, "revivals": float(self.revivals), "live": float(live)}
        self._steer(live, row)
        return found | {f"live.{hook}": float(count) for hook, count in per_hook.items()}

    def _steer(self, live: int, row: Mapping[str, float]) -> None:
        """Push harder while there are too many live units, and not at all once there are not; or towards a loss."""
        wanted, wanted_loss = self._config.wanted_live, self._config.wanted_loss
        if wanted is not None:
            self._push *= math.exp(GAIN * min(1.0, max(0.0, math.log(max(live, 1) / wanted))))
            self.strength = self._push if live > wanted else 0.0
        elif wanted_loss is not None:
            found = sum(row[name] for name in self._kept) / len(self._kept)
            self.strength *= math.exp(GAIN * max(-1.0, min(1.0, math.log(wanted_loss / max(found, 1e-9)))))

    def live(self) -> tuple[int, dict[str, int]]:
        """Return the number of live units, in all and per hook: of norm above 0, or above the threshold."""
        threshold = 0.0 if self._proximal else self._config.threshold
        with torch.no_grad():
            per_hook = {h: int((norms_of(parts) > threshold).sum()) for h, parts in self._parts.items()}
        return sum(per_hook.values()), per_hook

    @torch.no_grad()
    def zero(self) -> None:
        """Set the groups whose norm is at most the threshold to zero."""
        for parts in self._parts.values():
            dead = norms_of(parts) <= self._config.threshold
            for part in parts.values():
                part[dead] = 0

    def state(self) -> Mapping[str, float]:
        """Return the strength and the count of revivals; which groups are zero, the weights say."""
        return {"strength": self.strength, "push": self._push, "revivals": float(self.revivals)}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back what `state` returned."""
        self.strength, self._push, self.revivals = state["strength"], state["push"], int(state["revivals"])
        self._dead = self._zeros()

    @torch.no_grad()
    def _zeros(self) -> dict[str, Bool[Tensor, "unit"]]:
        return {hook: norms_of(parts) == 0 for hook, parts in self._parts.items()}

    def _step_sizes(self, hook: str, optimiser: torch.optim.Optimizer) -> Float[Tensor, "unit"]:
        settings, owners = optimiser.param_groups[0], self._owners[hook]
        rate, first = settings["lr"], next(iter(self._parts[hook].values()))
        if "betas" not in settings:
            return torch.full((len(first),), self.strength * rate / (1 - settings["momentum"]), device=first.device)
        total, count = torch.zeros(len(first), device=first.device), 0
        for name, part in self._parts[hook].items():
            state = optimiser.state[owners[name]]
            correction = 1 - settings["betas"][1] ** float(state["step"])
            total += _alike(part, owners[name], state["exp_avg_sq"]).sqrt().flatten(1).sum(dim=1) / correction**0.5
            count += part[0].numel()
        # Near a minimum v_hat is about 0. Adam moves no weight further than rate even there, and neither does this.
        furthest = 1.0 if self._config.penalty == "l1" else math.sqrt(count)
        step: Tensor = self.strength * rate / (total / count + settings["eps"])
        return step.clamp(max=rate * furthest)

    def _momenta(self, hook: str, optimiser: torch.optim.Optimizer) -> Iterator[Tensor]:
        for name, part in self._parts[hook].items():
            owner = self._owners[hook][name]
            for kind in ("exp_avg", "momentum_buffer"):
                if isinstance(value := optimiser.state[owner].get(kind), Tensor):
                    yield _alike(part, owner, value)


def _spared(
    norms: Float[Tensor, "unit"], new: Float[Tensor, "unit"], dead: Bool[Tensor, "unit"], spare: int
) -> Float[Tensor, "unit"]:
    """Return the new norms, but let at most `spare` groups die, the smallest; others that would keep their norm."""
    dying = (new == 0) & ~dead
    if int(dying.sum()) <= spare:
        return new
    order = torch.where(dying, norms, torch.inf).argsort()
    saved = order[max(spare, 0) : int(dying.sum())]
    return new.index_copy(0, saved, norms[saved])


def _shrink_entries(parts: Parts, step: Float[Tensor, "unit"]) -> None:
    """Take the proximal step of the plain L1 penalty: max(|w| - step, 0) with the sign of w."""
    for part in parts.values():
        by = step.view(-1, *[1] * (part.ndim - 1))
        part.copy_(part.sign() * (part.abs() - by).clamp(min=0))


def _owner(model: nn.Module, part: Tensor) -> nn.Parameter:
    """Return the parameter that a view looks at.

    Raises:
        ValueError: if it is not trained.
    """
    # Not by its memory: where a checkpoint fuses projections, several parameters may lie in one.
    owner = part._base
    assert isinstance(owner, nn.Parameter)
    if not owner.requires_grad:
        name = next(name for name, parameter in model.named_parameters() if parameter is owner)
        raise WrongValue(
            f"`model` has {name} frozen, which belongs to units that are to be localized; set its requires_grad to "
            "True, or choose other `kinds` of unit"
        )
    return owner


def _alike(part: Tensor, owner: nn.Parameter, value: Tensor) -> Tensor:
    """Look at a tensor that is laid out like a parameter in the way in which a view looks at the parameter."""
    assert value.stride() == owner.stride()
    offset = value.storage_offset() + part.storage_offset() - owner.storage_offset()
    return value.as_strided(part.shape, part.stride(), offset)
