"""The recovery sweep of all sparsity levels against the plain loop over copied networks.

Both are timed in turn, in this process, in CPU seconds of one thread, in the world of the paper's figure 3 (18 bits, 6
atoms of 3 bits, 2 composites; width 64, depth 3; Adam at 1e-3), at every tenth of its 98 sparsity levels with random
scores. Run by `make bench`.
"""

import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import prune, recover
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig

SUBTASK = parity_subtasks(18, atoms=6, k=3, composites=[(0, 1, 2), (3, 4, 5)])["composite_345"]
LEVELS = np.arange(1, 99)[5::10] / 100
EVALUATED = {"composite_345": SUBTASK.draw(8, split="report")}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def masks_of(model):
    order = np.random.default_rng(0).permutation(128)
    return [Mask(units_of(model), order >= int(128 * level)) for level in LEVELS]


def plain(model, masks, each, steps):
    stream = parity_stream([SUBTASK], each, seed=0)
    for mask in masks:
        network = prune(model, mask)
        adam = torch.optim.Adam(network.parameters(), lr=1e-3)
        for step in range(steps):
            examples = stream(step)
            adam.zero_grad()
            functional.cross_entropy(network(examples.inputs), examples.targets).backward()
            adam.step()


def together(model, masks, each, steps):
    stream = parity_stream([SUBTASK], each, seed=0)
    recover(Experiment(model, EVALUATED), masks, stream, TrainConfig(steps, rate=1e-3, eps=1e-8))


def seconds(work, *arguments):
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


@pytest.mark.parametrize(("examples", "steps", "least"), [(5000, 20, 1.4), (250, 150, 3.0)])
def test_recovery_of_all_levels(each, steps, least):
    model = MLP(24, 2, 64, 3)
    masks = masks_of(model)
    for work in (plain, together):
        work(model, masks, each, 2)
    found = np.array([[seconds(work, model, masks, each, steps) for work in (plain, together)] for _ in range(5)])
    slow, fast = np.median(found, axis=0) / steps * 1e3
    ratio = float(np.median(found[:, 0] / found[:, 1]))
    print(
        f"\nbatch {each}: CPU ms per step of {len(masks)} levels: plain {slow:.1f}, together {fast:.1f} ({ratio:.2f})"
    )
    assert ratio >= least
