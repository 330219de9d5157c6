from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from answered import Answered

import choosing_masks
from _frame import Cells
from choosing_masks import CRITERIA, MaskChoice


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    quick = choosing_masks.SCALES["quick"]
    scale = choosing_masks.Scale(quick.networks[:2], replace(quick.choice, swaps=8))
    run = Cells(tmp_path_factory.mktemp("runs"))
    cells = []

    def remember(cell, specs):
        results = run(cell, specs)
        cells.extend(results)
        return results

    return choosing_masks.measure(scale, Answered(answer=remember)), cells


def test_masks_are_chosen_on_one_split_and_the_search_is_best_there(found):
    record, cells = found
    chosen = [cell for cell in cells if "masks" in cell.arrays]
    assert len(chosen) == len(record["seeds"]) > 0
    for cell in chosen:
        masks, losses = cell.arrays["masks"].values, cell.arrays["selection_losses"].values
        assert (masks.sum(axis=2) == record["counts"]).all()
        search = CRITERIA.index("search")
        assert (
            losses[search] <= losses[[c for c in range(len(CRITERIA)) if c != CRITERIA.index("random")]] + 1e-6
        ).all()
        # With every unit kept, all are the same.
        assert np.ptp(losses[:, 0]) < 1e-9
        again, once = CRITERIA.index("ablation, again"), CRITERIA.index("ablation, signed")
        assert (masks[again] != masks[once]).any()
    assert record["criteria"]["ablation"]["fewest"]["value"] <= record["criteria"]["random"]["fewest"]["value"]


def test_the_fewest_neurons():
    accuracies = np.array([[1.0, 0.99, 0.5, 0.99], [1.0, 1.0, 1.0, 1.0], [0.9, 1.0, 1.0, 1.0]])
    assert choosing_masks._fewest([40, 30, 20, 10], accuracies).tolist() == [30, 10, 40]


def test_it_is_drawn_from_its_record(found, tmp_path):
    figure = choosing_masks.draw(found[0])
    figure.savefig(tmp_path / "figure.png")
    plt.close(figure)
    assert len(figure.axes) == 3


def test_a_choice_that_cannot_be():
    with pytest.raises(ValueError, match="at least 1"):
        MaskChoice("", every=0)
    assert asdict(MaskChoice(""))["subtask"] == "composite_012"
