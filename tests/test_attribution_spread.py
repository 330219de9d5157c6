"""An attribution in blocks of examples: the same bytes whoever estimates them, in whatever order."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from by_hand import started

import skilloc as sk
from skilloc.ablation.items import keep
from skilloc.attribution import block_estimator
from skilloc.models.language import open_model
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure
from skilloc.study.settings import Settings
from skilloc.sweep import Pool, done_items

SETTINGS = Settings(
    sequences=4, length=16, folds=4, method="two-stage", reference="mean", units=("head",), curvature=2, sample=8, top=1
)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of the two subtasks' eight examples: three, three and two."""
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 3 * 16 * 2048)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_block_depends_on_no_other_block(monkeypatch):
    model = sk.MLP(6, 2, width=8, depth=3, seed=1)
    experiment = sk.Experiment(model, sk.parity_subtasks(4, atoms=2, k=2), count=16, folds=2)
    whole = [sk.attribution_effects(experiment, curvature=draws, seed=3) for draws in (0, 4)]
    monkeypatch.setattr("skilloc.models.losses.MAX_LOGITS", 12 * 8)
    blocks = experiment.blocks
    assert len(blocks) > 2
    in_order = [sk.attribution_effects(experiment, curvature=draws, seed=3) for draws in (0, 4)]

    def backwards(blocks, estimate):
        found = [block_estimator(experiment, curvature=4, seed=3)(block) for block in reversed(blocks)]
        return reversed(found)

    again = sk.attribution_effects(experiment, curvature=4, seed=3, over=backwards)
    np.testing.assert_array_equal(again.values, in_order[1].values)
    np.testing.assert_allclose(in_order[0].values, whole[0].values, atol=1e-7)  # nothing is drawn
    # Draws are others, and of the first block the same.
    first = block_estimator(experiment, curvature=4, seed=3)(blocks[0])
    monkeypatch.undo()
    np.testing.assert_allclose(block_estimator(experiment, curvature=4, seed=3)(blocks[0]), first)
    assert (in_order[1].values != whole[1].values).any()
    np.testing.assert_allclose(in_order[1].values, whole[1].values, atol=0.05)


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("dask")) as file:
        yield file


@pytest.mark.slow
@pytest.mark.usefixtures("small_blocks")
def test_an_estimated_study_is_the_same_bytes_whoever_estimates(tmp_path, scheduler_file, monkeypatch):
    opened = open_model("embedded")
    subtasks = subtasks_of(opened, {"python": "python", "english": "english"}, length=16)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    measure(opened, subtasks, SETTINGS, tmp_path / "here")
    torch.set_num_threads(before)
    here = files(tmp_path / "here")
    assert "effects/manifest.json" in here
    pool, folder = Pool(scheduler=scheduler_file), tmp_path / "there"

    def stopped(*given):
        keep(*given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skilloc.study.elsewhere.keep", stopped)
        with pytest.raises(KeyboardInterrupt):
            measure(opened, subtasks, SETTINGS, folder)
    assert len(list((folder / "items").iterdir())) == 1  # of three
    measure(opened, subtasks, SETTINGS, folder, workers=pool)
    assert files(folder) == here

    def cut_short(*given, **more):
        yield next(iter(done_items(*given, **more)))
        raise KeyboardInterrupt

    other = tmp_path / "other"
    with monkeypatch.context() as patched:
        patched.setattr("skilloc.study.elsewhere.done_items", cut_short)
        with pytest.raises(KeyboardInterrupt):
            measure(opened, subtasks, SETTINGS, other, workers=Pool(workers=1))
    assert len(list((other / "items").iterdir())) in (1, 2)
    measure(opened, subtasks, SETTINGS, other)
    assert files(other) == here


def test_integrated_gradients_stay_in_this_process(tmp_path, monkeypatch):
    opened = open_model("embedded")
    subtasks = subtasks_of(opened, {"python": "python"}, length=16)
    monkeypatch.setattr("skilloc.study.elsewhere.done_items", None)  # calling it would fail
    only = ("L1H0", "L1H1")
    own = replace(SETTINGS, method="integrated-gradients", sample=0, top=0, only=only)
    measure(opened, subtasks, own, tmp_path / "study", workers=Pool(workers=1))
