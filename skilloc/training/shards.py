"""Weights, gradients and optimiser in shards over all processes (FSDP2), behind the face of an optimiser.

A copy of the model is sharded and trained. Rules, terms and evaluations work on the model itself, which is whole in
every process: after a step that somebody looks at, its weights, and its optimiser's state, are gathered; before the
next one, what rules have done to them goes back into the shards. So a rule does what it does in one process, bit for
bit, and needs to know nothing of shards.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from skilloc.models.face import Face
from skilloc.models.makers import face_of
from skilloc.training.optimisers import optimiser_of
from skilloc.training.settings import TrainConfig


class Shards(torch.optim.Optimizer):
    """The optimiser of a whole model, whose steps are taken by shards of a copy.

    Attributes:
        face: of the sharded copy, by which gradients are found.
        always: whether somebody looks after every step.
    """

    def __init__(self, face: Face, whole: torch.optim.Optimizer, config: TrainConfig, *, always: bool) -> None:
        # The base class would take the weights itself.
        self.always, self._whole, self._dirty = always, whole, True
        self.face = face_of(face.copy())
        # The weights that products are made of are bfloat16; those that are trained, and all sums, stay float32.
        types: dict[str, Any] = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32}
        policy = MixedPrecisionPolicy(**types) if config.products == "bfloat16" else MixedPrecisionPolicy()
        for part in (*self.face.blocks, self.face.module):
            fully_shard(part, mp_policy=policy)
        self._own = optimiser_of(self.face.module.named_parameters(), config)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of the whole model's weights."""
        return self._whole.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The state of the whole model's weights, as of the last time that they were gathered."""
        return self._whole.state

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the whole model's optimiser."""
        return self._whole.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        self._whole.load_state_dict(state_dict)
        self._dirty = True

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, and let the shards have what was done to the whole model."""
        self._whole.zero_grad(set_to_none)
        self._own.zero_grad(set_to_none)
        if self._dirty:
            self._scatter()
        self._dirty = False

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step; gradients of the whole model, which terms have, are added to those of the shards."""
        for whole, own in self._pairs():
            if whole.grad is not None:
                part = _shard(whole.grad, own)
                own.grad = part if own.grad is None else own.grad + part
        for group, own_group in zip(self._whole.param_groups, self._own.param_groups, strict=True):
            own_group["lr"] = group["lr"]
        self._own.step()
        if self.always:
            self.gather()

    @torch.no_grad()
    def gather(self) -> None:
        """Make the whole model, and its optimiser's state, what the shards are together."""
        for part, own_part in zip(_parts(self._whole), _parts(self._own), strict=True):
            for whole, own in _paired(part, own_part):
                whole.copy_(_full(own))
                part.state[whole] = {name: _full(value) for name, value in own_part.state[own].items()}
        self._dirty = True

    @torch.no_grad()
    def _scatter(self) -> None:
        for part, own_part in zip(_parts(self._whole), _parts(self._own), strict=True):
            for whole, own in _paired(part, own_part):
                own.copy_(_shard(whole.detach(), own))
                for name, value in part.state[whole].items() if whole in part.state else ():
                    spread = isinstance(value, Tensor) and value.shape == whole.shape
                    own_part.state[own][name] = _shard(value, own) if spread else value

    def _pairs(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        for part, own_part in zip(_parts(self._whole), _parts(self._own), strict=True):
            yield from _paired(part, own_part)


def _parts(optimiser: torch.optim.Optimizer) -> list[torch.optim.Optimizer]:
    return getattr(optimiser, "parts", [optimiser])


def _paired(whole: Any, own: Any) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
    # Both were made of the same weights in the same order.
    for group, own_group in zip(whole.param_groups, own.param_groups, strict=True):
        yield from zip(group["params"], own_group["params"], strict=True)


def _full(value: Any) -> Any:
    return value.full_tensor() if isinstance(value, DTensor) else value.clone() if isinstance(value, Tensor) else value


def _shard(value: Tensor, like: Any) -> Any:
    """Return the shard of a whole tensor that every process has, without a message."""
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
