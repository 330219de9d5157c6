"""Runs that are done together: the same as each alone, and each kept by itself."""

import numpy as np
import pytest

from skilloc.models.mlp import MLP
from skilloc.relearning import NEVER, ORIGINAL, PLAIN_WAYS, Grid, relearn_probe
from skilloc.relearning.attack import attack_all
from skilloc.tasks.parity import parity_subtasks

KEPT, GONE = parity_subtasks(8, atoms=2, k=2).values()
GRID = Grid(
    ways=PLAIN_WAYS,
    rates=(1e-3, 1e-2),
    budgets=(1, 8, 32),
    sizes=(16, None),
    examples=24,
    held_out=60,
    folds=3,
    repair=4,
)
MODELS = {name: MLP(10, 2, width, 3, seed=width) for name, width in {ORIGINAL: 20, NEVER: 12, "pruned": 7}.items()}


def probe(models, **settings):
    return relearn_probe(models, [GONE], GONE, GRID, (0, 1), kept=[KEPT], **settings)


@pytest.mark.filterwarnings("ignore:.*widen `rates`")
def test_a_run_among_others_is_the_run_alone(monkeypatch):
    together = probe(MODELS)
    monkeypatch.setattr("skilloc.training.many.by_hand", lambda *_: False)  # each by the training loop
    alone = probe(MODELS)
    assert (together.repair_steps == alone.repair_steps).all()
    assert together.repair_steps.any()
    for name in ("selection", "report", "kept"):
        np.testing.assert_allclose(getattr(together, name), getattr(alone, name), atol=1e-4)
    assert (together.report[..., -1, :, :] < together.report[..., 0, :, :]).any()


@pytest.mark.filterwarnings("ignore:.*widen `rates`")
def test_each_run_is_kept_by_itself(tmp_path, monkeypatch):
    fewer = {name: MODELS[name] for name in (ORIGINAL, NEVER)}
    equal = {"first": MODELS["pruned"], "second": MODELS["pruned"]}
    probe({**fewer, "pruned": MODELS["pruned"]}, out=tmp_path)
    runs = len(list(tmp_path.glob("runs/*")))
    attacked = []

    def noted(models, *arguments, **settings):
        attacked.append(len(models))
        return attack_all(models, *arguments, **settings)

    monkeypatch.setattr("skilloc.relearning.doing.attack_all", noted)
    found = probe({**fewer, **equal}, out=tmp_path)
    assert not attacked
    assert len(list(tmp_path.glob("runs/*"))) == runs
    np.testing.assert_array_equal(found.report[2], found.report[3])
    fresh = probe({**fewer, **equal}, out=tmp_path / "fresh")
    assert len(list(tmp_path.glob("fresh/runs/*"))) == runs
    np.testing.assert_allclose(fresh.report, found.report, atol=1e-4)
    repaired = (found.repair_steps[:3] > 0).sum(axis=0)
    assert max(attacked) == 3 + repaired.max() > 3  # from both starts; the equal ones are one
