"""The cell and the picture of `analyses/corpus_removal`, on a tiny model."""

import json
import random
import warnings

import numpy as np
import pytest
from answered import Answered

import corpus_removal
from corpus_removal import LASSO, NAIVE, CorpusRemoval, unlearn
from skilloc import store
from skilloc.relearning import CONTROLS, Relearning

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def arm(saved, tmp_path_factory) -> CorpusRemoval:
    folder = tmp_path_factory.mktemp("texts")
    for word in ("cat", "def"):
        for i in range(80):
            noise = random.Random(f"{word}{i}")
            text = " ".join(f"{word} {noise.getrandbits(40)}" for _ in range(12))
            (folder / f"{word}_{i}.txt").write_text(text)
    return CorpusRemoval(
        model=str(saved),
        kept=(f"{folder}/cat_*.txt",),
        removed=f"{folder}/def_*.txt",
        unseen=str(saved),
        length=8,
        rows=4,
        steps=4,
        rates=(1e-2,),
        budgets=(2,),
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
        return [unlearn(arm)]


def test_a_cell_prunes_in_two_ways_and_attacks_beside_controls(cells, arm):
    for metrics, arrays in cells:
        for name in (LASSO, NAIVE):
            own = {key.removeprefix(f"{name}/"): value for key, value in arrays.items() if key.startswith(f"{name}/")}
            found = store.from_parts(Relearning, json.loads(json.dumps(metrics["relearning"][name])), own)
            assert set(found.models) == {*CONTROLS, name}
            assert found.subtasks == arm.kept
            units = metrics["units"][name]
            assert units["random mask"] == units["never trained"] == units["never saw"] == units[name]
            assert units[name] <= units["original"] == units["plain finetuning"]
            kept = {model: losses[arm.kept[0]] for model, losses in metrics["losses"][name].items()}
            assert all(np.isfinite(loss) for loss in kept.values())


def test_the_picture_is_drawn_from_the_record_alone(cells, arm, tmp_path):
    results = []
    for seed, (metrics, arrays) in enumerate(cells):
        store.write(tmp_path / str(seed), {"seed": seed}, metrics, arrays)
        results.append(store.read(tmp_path / str(seed)))
    run = Answered(answer=lambda cell, specs: results[: len(specs)])
    record = json.loads(json.dumps(corpus_removal.measure((1, (arm,)), run)))
    assert record["arms"][0]["probes"][LASSO]["seeds"] == [0]
    for name in (LASSO, NAIVE):
        assert set(record["arms"][0]["probes"][name]["verdicts"]) == {name}
    corpus_removal.draw(record).savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"kept": ("python",), "removed": "python"}, "none twice"),
        ({"removed": ""}, "a source of each"),
        ({"steps": 0}, "at least 1"),
        ({"extra_loss": 0.0}, "positive number of nats"),
    ],
)
def test_settings_that_cannot_be(settings, cure):
    with pytest.raises(ValueError, match=cure):
        CorpusRemoval(**settings)
