"""What must not pass the door in silence: hooks and losses that changed, padding, places that run twice."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import skilloc as sk
from skilloc.ablation import ablation_effects
from skilloc.experiment import Experiment
from skilloc.tasks import IGNORE, Examples

TOKEN = 5


def probability(logits: torch.Tensor, examples: Examples) -> torch.Tensor:
    """A loss whose constant lies outside of it."""
    return -logits[:, -1, TOKEN].double()


def scaled(value: torch.Tensor, hook: Any, by: float) -> torch.Tensor:
    return value * by


@pytest.fixture
def examples(tokens: torch.Tensor) -> dict[str, Examples]:
    return {"text": Examples(tokens, tokens.roll(-1, 1))}


def test_a_hook_that_holds_another_number_is_another_measurement(llama: Any, examples: Any, tmp_path: Path) -> None:
    found = []
    for by in (0.5, 2.0, 0.5):
        with llama.hooks(fwd_hooks=[("blocks.1.hook_out", partial(scaled, by=by))]):
            experiment = Experiment(llama, examples, kinds=("head",), folds=1)
            found.append(ablation_effects(experiment, resume=tmp_path).values)
            again = ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1)).values
        np.testing.assert_array_equal(found[-1], again)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_array_equal(found[0], found[2])


def test_a_loss_whose_constant_changed_is_another_measurement(
    llama: Any, examples: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def measured() -> np.ndarray:
        experiment = Experiment(llama, examples, kinds=("head",), folds=1, loss=probability)
        return ablation_effects(experiment, resume=tmp_path).values

    first = measured()
    monkeypatch.setattr(f"{__name__}.TOKEN", 9)
    monkeypatch.setitem(probability.__globals__, "TOKEN", 9)
    assert np.abs(measured() - first).max() > 1e-3


def test_padded_prompts_are_not_resampled(llama: Any, tokens: torch.Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 8:] = False
    targets = tokens.roll(-1, 1).masked_fill(~mask, IGNORE)
    padded = {"prompts": Examples({"tokens": tokens, "mask": mask}, targets)}
    with pytest.raises(ValueError, match='use the reference "mean" or "paired"'):
        _ = Experiment(llama, padded, reference="resample", folds=1).held


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.h(self.f(self.f(x).tanh()).tanh())


def test_a_place_that_runs_twice_or_never_is_refused() -> None:
    batch = {"a": Examples(torch.randn(8, 5), torch.zeros(8, dtype=torch.long))}
    twice = sk.describe(Twice().eval(), {"f": sk.At("f")}, example=torch.zeros(1, 5))
    with pytest.raises(ValueError, match='"f", which runs 2 times in a pass; name a place that runs once'):
        ablation_effects(Experiment(twice, batch, kinds=("neuron",), folds=1))
    net = Twice().eval()
    net.unused = nn.Linear(5, 5)
    never = sk.describe(net, {"u": sk.At("unused", weights={"unused.weight": 0})})
    with pytest.raises(ValueError, match="which runs 0 times in a pass"):
        ablation_effects(Experiment(never, batch, kinds=("neuron",), folds=1))


def test_describing_leaves_a_module_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sk.describe(net, {"f": sk.At("0")}, example=torch.randn(6, 5))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.n, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.n(self.c(x)).relu().flatten(1))


@pytest.mark.parametrize(
    ("at", "cure"),
    [
        (sk.At("c"), '`axis` of "u" is not given; .* -3 for the channels of images'),
        (sk.At("n"), r"has shape \(1, 6, 4, 4\); say on which axis"),
        (sk.At("n", axis=1), "at most -1"),
        (sk.At("n", axis=-4), "use one of -3, -2, -1"),
        (sk.At("c", axis=-3, weights={"c.weight": 1}), "with 6 on axis -3"),
        (sk.At("c", axis=-3, weights={"c.weight": 0, "out.weight": 1}), r'then write "out.weight": \(1, 16\)'),
    ],
)
def test_an_axis_that_is_open_or_wrong_is_refused(at: sk.At, cure: str) -> None:
    net = Pixels().eval()
    with pytest.raises(ValueError, match=cure):
        sk.describe(net, {"u": at}, example=torch.zeros(1, 1, 4, 4))


def test_an_axis_that_is_wrong_is_refused_without_an_example() -> None:
    model = sk.describe(Pixels().eval(), {"u": sk.At("c", axis=-3, weights={"c.weight": 1})})
    batch = {"a": Examples(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))}
    with pytest.raises(ValueError, match="with 6 on axis -3"):
        ablation_effects(Experiment(model, batch, kinds=("neuron",), folds=1))


def test_a_described_module_that_trains_again_is_not_measured() -> None:
    net = Pixels().eval()
    model = sk.describe(net, {"u": sk.At("c", axis=-3, weights={"c.weight": 0})})
    net.train()
    before = net.n.running_mean.clone()
    batch = {"a": Examples(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))}
    with pytest.raises(ValueError, match=r"in training mode.*model.eval\(\)"):
        ablation_effects(Experiment(model, batch, kinds=("neuron",), folds=1))
    assert torch.equal(net.n.running_mean, before)
    assert ablation_effects(Experiment(model.eval(), batch, kinds=("neuron",), folds=1)).values.shape == (1, 1, 6)


@pytest.mark.parametrize(
    ("settings", "error", "cure"),
    [
        ({"reference": np.full(12, np.nan)}, ValueError, "pass one number per unit"),
        ({"at": torch.zeros(4, 12, dtype=torch.bool)}, ValueError, "choose positions"),
    ],
)
def test_nonsense_is_refused(llama: Any, examples: Any, settings: dict[str, Any], error: type, cure: str) -> None:
    with pytest.raises(error, match=cure):
        ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1, **settings))


def test_a_mask_of_numpy_is_a_mask(llama: Any, examples: Any) -> None:
    at = np.zeros((4, 12), dtype=bool)
    at[:, 3] = True
    found = [
        ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1, at=given)).values
        for given in (at, torch.from_numpy(at))
    ]
    np.testing.assert_array_equal(*found)


def test_residual_dimensions_need_the_ordinary_attention_output(llama: Any) -> None:
    llama.cfg.use_attn_result = True
    try:
        with pytest.raises(ValueError, match="set_use_attn_result"):
            sk.units_of(llama, kinds=("residual",))
    finally:
        llama.cfg.use_attn_result = False
