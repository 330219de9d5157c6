"""Schedules, clipping and groups of weights are those of torch; a stopped run goes on to the same weights."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from skilloc import training
from skilloc.lasso import LocalizeConfig
from skilloc.models.language import digest
from skilloc.models.mlp import MLP
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import Checkpoints, Group, TrainConfig, train
from skilloc.training.optimisers import Muon, rate_factor

SUBTASKS = parity_subtasks(6, atoms=2, k=2)
STEPS = 12
MIXED = TrainConfig(
    steps=STEPS,
    rate=0.01,
    optimiser="adamw",
    betas=(0.9, 0.98),
    eps=1e-8,
    momentum=0.95,
    warm_up=0.25,
    decay="linear",
    clip=0.5,
    groups=(Group(r"layers\.\d+\.weight", "muon", 0.02, weight_decay=0.1),),
    evaluate_every=4,
)


def run(config: TrainConfig, folder: Path | None = None) -> MLP:
    model = MLP(8, 2, 6, 3)
    evaluate = {name: subtask.draw(40, split="selection") for name, subtask in SUBTASKS.items()}
    stream = parity_stream(SUBTASKS.values(), 20, seed=0)
    train(model, stream, config, evaluate=evaluate, checkpoints=folder and Checkpoints(folder, 4))
    return model


def test_groups_clipping_and_schedule_are_those_of_torch() -> None:
    found, plain = run(MIXED), MLP(8, 2, 6, 3)
    matrices = [layer.weight for layer in plain.layers]
    rest = [weight for weight in plain.parameters() if all(weight is not other for other in matrices)]
    both = [
        Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0),
    ]
    stream = parity_stream(SUBTASKS.values(), 20, seed=0)
    for step in range(STEPS):
        examples = stream(step)
        factor = min((step + 1) / 3, (STEPS - step) / 9)
        functional.cross_entropy(plain(examples.inputs), examples.targets).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        for optimiser, full in zip(both, (0.02, 0.01), strict=True):
            optimiser.param_groups[0]["lr"] = full * factor
            optimiser.step()
            optimiser.zero_grad()
    for mine, theirs in zip(found.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_a_stopped_run_of_groups_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: Any) -> None:
    whole = run(MIXED)
    real, done = training.take_step, 0

    def stop(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done > 6:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(MIXED, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000004"]
    assert digest(run(MIXED, tmp_path)) == digest(whole)


@pytest.mark.parametrize(
    ("decay", "wanted"),
    [
        ("none", [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.5, 1, 1, *((1 - math.cos(math.pi * left / 6)) / 2 for left in (5, 4, 3, 2, 1))]),
    ],
)
def test_the_rate_rises_and_falls(decay: Any, wanted: list[float]) -> None:
    config = TrainConfig(steps=8, warm_up=0.25, decay=decay)
    assert [rate_factor(step, config) for step in range(8)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"groups": (Group("nothing", "adam", 0.1),)}, "which no weight is called by; there are layers.0.weight"),
        ({"groups": (Group("bias", "muon", 0.1),)}, "muon is for matrices"),
        ({"warm_up": 1.0}, r"`warm_up` is 1\.0; use a number, at least 0 and below 1"),
        ({"clip": 0.0}, r"`clip` is 0\.0; use a positive number"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], cure: str, monkeypatch: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=cure):
        run(TrainConfig(**{"steps": 2, **settings}))


def test_a_group_needs_a_rate() -> None:
    with pytest.raises(ValueError, match=r"`rate` is 0\.0; use a positive number"):
        Group("bias", "adam", 0.0)


def test_a_penalty_wants_one_optimiser() -> None:
    with pytest.raises(ValueError, match="one strength for all weights"):
        LocalizeConfig(training=MIXED)


def test_muon_in_float32_is_torchs_with_finer_rounding() -> None:
    moved = []
    for kind in (Muon, torch.optim.Muon):
        draws = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(torch.randn(shape, generator=draws)) for shape in ((24, 64), (64, 24))]
        before = [weight.detach().clone() for weight in weights]
        optimiser = kind(weights, lr=0.02, momentum=0.9, weight_decay=0.1)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=draws)
            optimiser.step()
        moved.append(torch.cat([(weight - old).flatten() for weight, old in zip(weights, before, strict=True)]))
    assert (moved[0] - moved[1]).norm() < 0.02 * moved[1].norm()
    assert (moved[0] - moved[1]).norm() > 0  # torch's products are in bfloat16
