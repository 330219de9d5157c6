"""The exact sweep of an MLP against the loop that everybody writes: a copy of the network per neuron.

Both are timed in turn, in this process, in CPU seconds of one thread, on the same examples. The loop is run on a sample
of neurons and scaled by their number, the sweep in full; each round gives one ratio, and the median over rounds counts.
The half second of compiling, once per process, comes before. Networks that have no compiled loop (other activations,
more classes, on a GPU) take tensor operations instead; these are timed too, on the same network. Run by `make bench`.

Measured at width 128: compiled 43 to 68 with AVX-512 and 54 held to AVX2; tensor operations 20 to 28, 25 held to AVX2,
and 19 on a processor that has nothing better. Hence a bound of its own for that.
"""

import copy
import time

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.ablation import ablation_effects, dense
from skilloc.experiment import Experiment
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.tasks.parity import parity_subtasks

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mean_losses(model, batches):
    with torch.no_grad():
        return [functional.cross_entropy(model(b.inputs).double(), b.targets).item() for b in batches.values()]


def loop(model, batches, base, layer, position):
    """The authors' way: copy the network, zero the neuron's weights, run every subtask."""
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        pruned.layers[layer].weight[position] = 0
        pruned.layers[layer].bias[position] = 0
        after = pruned.layers[layer + 1] if layer + 1 < len(pruned.layers) else pruned.out
        after.weight[:, position] = 0
    return np.array(mean_losses(pruned, batches)) - base


@pytest.mark.parametrize(
    ("width", "compiled", "rounds", "sampled", "least"),
    [
        (128, True, 7, 12, 25),
        (128, False, 7, 12, 20 if AVX512 else 17),
        (512, True, 5, 2, 200),
        (512, False, 3, 2, 60),
        (1024, True, 2, 1, 90),
        (1024, False, 2, 1, 90),
    ],
)
def test_sweep_of_a_network_of_depth_3(width, compiled, rounds, sampled, least, monkeypatch):
    if not compiled:
        monkeypatch.setattr(dense, "fusable", lambda *network: False)
    # The setting of the paper's figures 8 and 9: 6 atoms of 3 bits and 2 composites, 2000 examples each.
    subtasks = parity_subtasks(18, atoms=6, k=3, composites=[(0, 1, 2), (3, 4, 5)])
    batches = {name: subtask.draw(2000) for name, subtask in subtasks.items()}
    model = MLP(24, 2, width, 3)
    with torch.no_grad():  # as large as the effects of a trained network
        for parameter in model.parameters():
            parameter.mul_(3)
    units = units_of(model)
    base = np.array(mean_losses(model, batches))
    ablation_effects(Experiment(model, batches, units=units), select=np.arange(2 * width) % width < 2)
    loop(model, batches, base, 0, 0)
    chosen = np.random.default_rng(0).permutation(width)[: rounds * sampled].reshape(rounds, sampled)
    times, fast, slow = [], [], []
    for positions in chosen:
        start = time.process_time()
        effects = ablation_effects(Experiment(model, batches, units=units, folds=8))
        sweep = time.process_time() - start
        start = time.process_time()
        slow += [loop(model, batches, base, layer, p) for layer in (0, 1) for p in positions]
        times.append(((time.process_time() - start) * width / sampled, sweep))
        fast += [effects.values[:, :, layer * width + p].mean(axis=0) for layer in (0, 1) for p in positions]
    difference, size = np.abs(np.array(fast) - np.array(slow)).max(), np.abs(np.array(slow)).max()
    literal, sweep = np.median(times, axis=0)
    ratio = np.median([a / b for a, b in times])
    print(
        f"\nwidth {width}{'' if compiled else ', tensor operations'}: loop {literal:.2f} s, sweep {sweep:.3f} s, "
        f"ratio {ratio:.0f}; largest effect {size:.3f}, largest difference {difference:.1e}"
    )
    assert size > 0.01
    assert difference < 1e-6
    assert ratio >= least
