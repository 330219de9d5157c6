"""One attack on several networks together, against a plain loop for each, and against attacking each by itself.

All are timed in turn, in this process, in CPU seconds of one thread, on the six models of a probe of a network like
those of the paper's figure 3 (18 bits, 6 atoms of 3 bits; width 64, depth 3; half of it for what was pruned), with the
probe's own 64 examples per step. Run by `make bench`.

Measured: 5.3 times as fast as plain loops, which measure nothing on the way, and 3.8 times as fast as one by one.
"""

import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.models.mlp import MLP
from skilloc.relearning import Grid
from skilloc.relearning.attack import attack_all, hold_out
from skilloc.tasks.parity import parity_subtasks
from skilloc.tasks.streams import stream

ATOM = parity_subtasks(18, atoms=6, k=3)["parity_0"]
STEPS, RATE = 512, 1e-3
GRID = Grid(rates=(RATE,), budgets=(STEPS,))
WIDTHS = (64, 64, 64, 32, 32, 32)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def networks():
    return [MLP(24, 2, width, 3, seed=seed) for seed, width in enumerate(WIDTHS)]


def plain():
    for network in networks():
        sample = stream([ATOM], GRID.examples, seed=0)
        adam = torch.optim.Adam(network.parameters(), lr=RATE)
        for step in range(STEPS):
            examples = sample(step)
            adam.zero_grad()
            functional.cross_entropy(network(examples.inputs), examples.targets).backward()
            adam.step()


def attacked(models):
    held_out = hold_out(ATOM, [], GRID, torch.device("cpu"))
    assert len(
        list(attack_all(models, stream([ATOM], GRID.examples, seed=0), held_out, GRID, rate=RATE, seed=0))
    ) == len(models)


def each():
    for network in networks():
        attacked([network])


def together():
    attacked(networks())


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def test_an_attack_on_several_networks():
    works = (plain, each, together)
    for work in works:
        work()
    found = np.array([[seconds(work) for work in works] for _ in range(5)])
    told = ", ".join(f"{work.__name__} {ms:.2f}" for work, ms in zip(works, np.median(found, axis=0), strict=True))
    ratios = np.median(found[:, :2] / found[:, 2:], axis=0)
    print(f"\nCPU seconds of {len(WIDTHS)} networks, {STEPS} steps: {told}")
    print(f"plain/together {ratios[0]:.2f}, each/together {ratios[1]:.2f}, medians of 5 rounds")
    assert ratios.min() >= 3
