"""The training loop against a plain one: the paper's data generation, and an evaluation of every subtask at each step.

All are timed in turn, in this process, in CPU seconds of one thread, at the setting of the paper's figure 2 (64 bits,
4 atoms of 4 bits and their composite, 2000 examples each, width 128, depth 3). What else runs on the machine takes its
caches, so each round gives one ratio, and the median over rounds counts. That the fast loop learns what a plain one
learns is compared on the same networks and examples. In a small world the same seeds learn. At the setting of figure 2
rounding decides which do: there the fast loop is held to be as close to the plain one as that is to itself with the
examples of each batch in another order (the rest is statistics: analyses/precision.py). Run by `make bench`, without
the run-time type checks of other tests.

Measured, plain / float32: 2.0 to 2.4 on an idle machine and 1.75 on a busy one, 1.71 there held to AVX2; plain /
bfloat16: 3.6 to 4.4 with AVX512-BF16; without, 0.18 held to AVX2 and 0.24 on a processor that has nothing better.
"""

import math
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc.models.mlp import MLP
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train
from skilloc.training.products import product_advice

ROUNDS = 5
CODES = [(0,), (1,), (2,), (3,), (0, 1, 2, 3)]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def get_batch(codes, each):
    """The authors' way: one random integer per bit, and the parity from a sum."""
    rows = []
    for code in codes:
        bits = torch.randint(0, 2, (each, 64), dtype=torch.float32)
        control = torch.zeros(each, 4)
        control[:, list(code)] = 1
        chosen = [4 * atom + k for atom in code for k in range(4)]
        rows.append((torch.cat([control, bits], dim=1), bits[:, chosen].sum(dim=1).long() % 2))
    return torch.cat([x for x, _ in rows]), torch.cat([y for _, y in rows])


def plain(steps):
    model = MLP(68, 2, 128, 3)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-5)
    for _ in range(steps):
        with torch.no_grad():
            for code in CODES:
                x, y = get_batch([code], 2000)
                functional.cross_entropy(model(x), y).item()
        x, y = get_batch(CODES, 2000)
        adam.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        adam.step()


def lean(steps, products):
    subtasks = parity_subtasks(64, atoms=4, k=4, composites=[(0, 1, 2, 3)])
    evaluate = {name: subtask.draw(2000, split="selection") for name, subtask in subtasks.items()}
    config = TrainConfig(steps=steps, evaluate_every=250, products=products)
    train(MLP(68, 2, 128, 3), parity_stream(subtasks.values(), 2000, seed=0), config, evaluate=evaluate)


def per_step(work, steps):
    """CPU milliseconds per step, with what a run takes to begin and end."""
    start = time.process_time()
    work(steps)
    return (time.process_time() - start) / steps * 1e3


def test_steps_at_the_setting_of_figure_2():
    # What a run takes to begin and end is a few steps' worth, and runs have thousands.
    works = ((plain, 15), (lambda n: lean(n, "float32"), 120), (lambda n: lean(n, "bfloat16"), 120))
    for work, _ in works:
        work(2)
    found = np.array([[per_step(work, steps) for work, steps in works] for _ in range(ROUNDS)])
    slow, fast, half = np.median(found, axis=0)
    ratios = np.median(found[:, :1] / found[:, 1:], axis=0)
    print(f"\nCPU ms per step: plain {slow:.1f}, float32 {fast:.1f}, bfloat16 {half:.1f}")
    print(f"plain/float32 {ratios[0]:.2f}, plain/bfloat16 {ratios[1]:.2f}, medians of {ROUNDS} rounds")
    assert ratios[0] >= 1.6
    # With instructions for bfloat16 it is much faster, and without them much slower: which it is here, advice knows.
    rounded = '"bfloat16" would be faster' in product_advice()
    assert rounded == (half < fast)
    assert not rounded or ratios[1] >= 3


@dataclass(frozen=True)
class Setting:
    """A curriculum: a world, a network, and how it is trained."""

    n: int
    atoms: int
    k: int
    width: int
    examples: int
    rate: float
    steps: int
    seeds: int

    @property
    def composite(self):
        return f"composite_{''.join(map(str, range(self.atoms)))}"

    def parts(self, seed):
        """Return the network, the stream of examples and those that are held out."""
        subtasks = parity_subtasks(self.n, atoms=self.atoms, k=self.k, composites=[tuple(range(self.atoms))])
        held_out = {self.composite: subtasks[self.composite].draw(2000, split="selection", seed=seed)}
        model = MLP(self.atoms + self.n, 2, self.width, 3, seed=seed)
        return model, parity_stream(subtasks.values(), self.examples, seed=seed), held_out


LEARNED, EVERY = 0.02 * math.log(2), 250


def autograd_learns(setting, seed):
    """Return the step at which the composite was learned, or None: a plain loop over the same examples."""
    model, stream, held_out = setting.parts(seed)
    adam = torch.optim.Adam(model.parameters(), lr=setting.rate, eps=1e-5)
    batch = held_out[setting.composite]
    for step in range(setting.steps):
        examples = stream(step)
        adam.zero_grad()
        functional.cross_entropy(model(examples.inputs), examples.targets).backward()
        adam.step()
        if (step + 1) % EVERY == 0:
            with torch.no_grad():
                if functional.cross_entropy(model(batch.inputs), batch.targets) < LEARNED:
                    return step + 1
    return None


def lean_learns(setting, seed, products="float32"):
    model, stream, held_out = setting.parts(seed)
    until = {setting.composite: LEARNED}
    config = TrainConfig(
        steps=setting.steps, rate=setting.rate, eps=1e-5, evaluate_every=EVERY, until=until, products=products
    )
    history = train(model, stream, config, evaluate=held_out)
    return int(history.of("step")[-1]) if history.of(setting.composite)[-1] < LEARNED else None


SMALL = Setting(24, 3, 3, 64, 250, 5e-3, 5000, 8)
"""As `analyses/curriculum.py --scale quick`."""
LARGE = Setting(64, 4, 4, 128, 2000, 1e-3, 20_000, 4)
"""As figure 2; its seeds take over an hour."""


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(SMALL, id="24 bits"),
        pytest.param(
            LARGE,
            id="figure 2",
            # One that passes here would be chance.
            marks=[pytest.mark.long, pytest.mark.xfail(strict=True, reason="rounding decides which learn: see below")],
        ),
    ],
)
def test_the_same_seeds_learn(setting):
    ways = {"autograd": autograd_learns, "float32": lean_learns, "bfloat16": partial(lean_learns, products="bfloat16")}
    learned = {}
    for name, way in ways.items():
        learned[name] = [way(setting, seed) for seed in range(setting.seeds)]
        print(f"\n{name}: learned by step {learned[name]}", flush=True)
    for steps in learned.values():
        assert [step is None for step in steps] == [step is None for step in learned["autograd"]]
    assert any(learned["autograd"])


WATCHED = (1, 10, 100, 500)
"""Steps after which networks are compared."""


def logits(way, seed=0):
    """Return the logits on held-out examples after each watched step of one way of training, as in figure 2."""
    model, stream, held_out = LARGE.parts(seed)
    order, seen = torch.Generator().manual_seed(seed), []

    def examples(step):
        if step in WATCHED:
            with torch.no_grad():
                seen.append(model(held_out[LARGE.composite].inputs))
        drawn = stream(step)
        return drawn.chosen(torch.randperm(len(drawn), generator=order)) if way == "another order" else drawn

    steps = WATCHED[-1] + 1
    if way in ("float32", "bfloat16"):
        config = TrainConfig(steps=steps, rate=LARGE.rate, eps=1e-5, evaluate_every=steps, products=way)
        train(model, examples, config, evaluate=held_out)
    else:
        adam = torch.optim.Adam(model.parameters(), lr=LARGE.rate, eps=1e-5)
        for step in range(steps):
            drawn = examples(step)
            adam.zero_grad()
            functional.cross_entropy(model(drawn.inputs), drawn.targets).backward()
            adam.step()
    return seen


def test_the_fast_loop_is_as_close_to_the_plain_one_as_that_to_itself():
    plain_ones = logits("autograd")
    apart = {
        way: [float((a - b).square().mean().sqrt() / b.std()) for a, b in zip(logits(way), plain_ones, strict=True)]
        for way in ("another order", "float32", "bfloat16")
    }
    for way, distances in apart.items():
        told = ", ".join(f"{distance:.1e} after {step}" for step, distance in zip(WATCHED, distances, strict=True))
        print(f"\nautograd and {way}: root mean square of logits' differences over their sd: {told} steps", flush=True)
    itself, fast, rounded = apart.values()
    assert rounded[0] < 2**-6  # bfloat16 has eight bits
    # The same sums in another order, and so the same to rounding: until steps have blown that up, for both alike.
    assert max(itself[0], fast[0]) < 1e-6
    assert max(itself[1], fast[1]) < 1e-4
    assert itself[-1] > 0.1
    assert fast[-1] < 2 * itself[-1]
