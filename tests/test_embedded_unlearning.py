"""The cell and the picture of `analyses/embedded_unlearning`, on a tiny model."""

import json
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
from answered import Answered

import embedded_unlearning
from embedded_unlearning import LASSO, NAIVE, EmbeddedUnlearning, unlearn
from skilloc import store
from skilloc.relearning import CONTROLS, UNSEEN, Relearning

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def arm(saved, tmp_path_factory) -> EmbeddedUnlearning:
    folder = tmp_path_factory.mktemp("texts")
    for word in ("cat", "def", "void"):
        for i in range(80):
            noise = random.Random(f"{word}{i}")
            text = " ".join(f"{word} {noise.getrandbits(40)}" for _ in range(12))
            (folder / f"{word}_{i}.txt").write_text(text)
    return EmbeddedUnlearning(
        model=str(saved),
        kept=(f"{folder}/cat_*.txt",),
        removed=(f"{folder}/def_*.txt", f"{folder}/void_*.txt"),
        length=8,
        rows=4,
        steps=4,
        rates=(1e-3, 1e-2),
        budgets=(1, 3),
        attack_rows=4,
        held_out=8,
        folds=4,
        repair=2,
        strength=50.0,
    )


@pytest.fixture(scope="module")
def cells(arm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the ends of so short a grid
        return [unlearn(replace(arm, seed=seed)) for seed in range(2)]


def test_a_cell_prunes_in_two_ways_and_attacks_beside_controls(cells, arm):
    for metrics, arrays in cells:
        found = store.from_parts(Relearning, json.loads(json.dumps(metrics["relearning"])), arrays)
        assert set(found.models) == {*CONTROLS, LASSO, NAIVE} - {UNSEEN}
        assert found.subtasks == arm.kept
        units = metrics["units"]
        assert units["random mask"] == units[NAIVE] <= units["original"]
        assert units["never trained"] == units[LASSO] <= units["original"]
        kept = {name: losses[arm.kept[0]] for name, losses in metrics["losses"].items()}
        assert all(np.isfinite(loss) for loss in kept.values())
    first, second = (metrics["relearning"]["made"]["digests"] for metrics, _ in cells)
    assert first["original"] == second["original"]
    assert first["random mask"] != second["random mask"]
    assert first["plain finetuning"] != second["plain finetuning"]


def test_the_picture_is_drawn_from_the_record_alone(cells, arm, tmp_path):
    results = []
    for seed, (metrics, arrays) in enumerate(cells):
        store.write(tmp_path / str(seed), {"seed": seed}, metrics, arrays)
        results.append(store.read(tmp_path / str(seed)))
    run = Answered(answer=lambda cell, specs: results[: len(specs)])
    record = json.loads(json.dumps(embedded_unlearning.measure((2, (arm,)), run)))
    assert record["arms"][0]["probe"]["seeds"] == [0, 1]
    assert set(record["arms"][0]["probe"]["verdicts"]) == {LASSO, NAIVE}
    embedded_unlearning.draw(record).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"kept": ("python",), "removed": ("python",)}, "none twice"),
        ({"removed": ()}, "at least one source"),
        ({"steps": 0}, "at least 1"),
        ({"extra_loss": 0.0}, "positive number of nats"),
    ],
)
def test_settings_that_cannot_be(settings, cure):
    with pytest.raises(ValueError, match=cure):
        EmbeddedUnlearning(**settings)
