"""The state of a run on disk, from which the same call goes on."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skilloc import store
from skilloc.mistakes import WrongValue, whole
from skilloc.training.settings import Rule


@dataclass(frozen=True)
class Checkpoints:
    """Where a run keeps its state: the same call goes on from there, and gives the same result.

    Attributes:
        folder: where.
        every: least number of steps between two; they are written after an evaluation.
        data: what names the examples of `sample` (seed, subtasks); checkpoints of other data are refused. JSON only.
    """

    folder: Path
    every: int = 5000
    data: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole("every", self.every)


def remember(
    folder: Path,
    spec: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rules: Sequence[Rule],
    rows: list[dict[str, float]],
) -> None:
    """Write the state aside and rename it into place, and then take the older one away."""
    older = _complete(folder)
    arrays = {f"model.{name}": value for name, value in model.state_dict().items()}
    for i, state in optimiser.state_dict()["state"].items():
        arrays |= {f"optimiser.{i}.{name}": value for name, value in state.items()}
    labelled = {
        name: store.Labelled(_plain(value).numpy(), tuple(f"axis_{i}" for i in range(value.ndim)))
        for name, value in arrays.items()
    }
    metrics = {"rows": rows, "rules": [dict(rule.state()) for rule in rules]}
    store.write(folder / f"step_{int(rows[-1]['step']):09d}", spec, metrics, labelled)
    for path in older:
        shutil.rmtree(path)


def recall(
    folder: Path | None,
    spec: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rules: Sequence[Rule],
) -> tuple[list[dict[str, float]], int]:
    """Put the last complete state back; return the history so far and the number of examples seen."""
    found = [] if folder is None else _complete(folder)
    if not found:
        return [], 0
    result = store.read(found[-1])
    if store.canonical(result.spec) != store.canonical(spec):
        raise WrongValue(
            f"`checkpoints` {folder} holds a run of another model, data or config; use a folder of its own for each run"
        )
    arrays = {name: torch.from_numpy(array.values) for name, array in result.arrays.items()}
    model.load_state_dict({name[6:]: value for name, value in arrays.items() if name.startswith("model.")})
    own = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in arrays.items():
        if name.startswith("optimiser."):
            _, i, part = name.split(".")
            state.setdefault(int(i), {})[part] = _laid_like(own[int(i)], value)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    for rule, kept in zip(rules, result.metrics["rules"], strict=True):
        rule.restore(kept)
    rows = result.metrics["rows"]
    return rows, int(rows[-1]["examples"])


def _laid_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return the value in the memory layout of its parameter.

    torch's fused optimisers take entries as they lie in memory: with transposed weights (the projections of a GPT-2)
    and a state that is not, each weight would be given the momentum of another.
    """
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _plain(value: Tensor) -> Tensor:
    # NumPy has no bfloat16; float32 holds its numbers exactly, and loading makes them bfloat16 again.
    value = value.detach().cpu()
    return value.float() if value.dtype == torch.bfloat16 else value


def _complete(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("step_*")) if store.is_complete(path)]
