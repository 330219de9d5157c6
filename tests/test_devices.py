"""Other devices than the CPU: the same numbers within the rounding of float32.

Tests on a GPU are skipped where there is none. Where there is one: python -m pytest tests/test_devices.py
"""

import json

import numpy as np
import pytest
import torch

import skilloc as sk
from skilloc.cli import main
from skilloc.models.language import open_model

NEEDED = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a CUDA device; where there is one: python -m pytest tests/test_devices.py",
)
NEAR = {"cpu": 0.0, "cuda": 2e-5}
"""How far effects in nats may be from those on the CPU, where a sum has another order."""


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NEEDED)])
def device(request):
    return request.param


def experiment(device, **types):
    opened = open_model("embedded", device=device, **types)
    texts = sk.subtasks_of(opened, {"python": "python", "english": "english"}, length=32)
    return sk.Experiment(opened.model, texts, reference="mean", count=8, folds=4)


def test_products_of_float32_are_of_float32():
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("types", [{}, {"weights": torch.bfloat16}])
def test_effects_masks_and_attribution(device, types):
    here, there = experiment("cpu", **types), experiment(device, **types)
    units = np.arange(len(here.units)) % 211 == 0
    effects = [sk.ablation_effects(one, select=units).values for one in (here, there)]
    np.testing.assert_allclose(effects[1], effects[0], atol=NEAR[device], rtol=0)
    estimates = [sk.attribution_effects(one, curvature=0).values for one in (here, there)]
    np.testing.assert_allclose(estimates[1], estimates[0], atol=NEAR[device], rtol=0)
    masks = [sk.mask_effects(one, [sk.Mask(one.units, ~units)])[0] for one in (here, there)]
    np.testing.assert_allclose(masks[1], masks[0], atol=10 * NEAR[device], rtol=0)


def test_a_network_is_trained_and_localized(device):
    found = []
    for place in ("cpu", device):
        subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        model = sk.MLP(6, 2, width=16, depth=3, seed=0).to(place)
        sample = sk.tasks.stream(subtasks.values(), 32, seed=0)
        sk.train(
            model,
            lambda step, sample=sample, place=place: sample(step).to(torch.device(place)),
            sk.TrainConfig(steps=20, rate=1e-2),
            evaluate={},
            progress=False,
        )
        found.append([weight.detach().cpu() for weight in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(theirs, ours, atol=max(NEAR[device], 1e-8), rtol=1e-4)


def test_a_study_of_the_command_line(device, tmp_path, capsys):
    line = ["effects", "embedded", "--units", "head", "--sequences", "8", "--folds", "4", "--length", "16", "--json"]
    found = []
    for place in ("cpu", device):
        out = tmp_path / f"{place}{len(found)}"
        main([*line, "--subtask", "python", "--out", str(out), "--device", place])
        found.append(sk.store.load(sk.Effects, out / "effects").values)
        assert json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(found[1], found[0], atol=NEAR[device], rtol=0)
