"""Kinds of networks whose truth is known, but for hidden ones: removed, damaged, untouched, planted, graded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import prune
from skilloc.relearning.known.added import widened
from skilloc.relearning.known.shelves import (
    BITS,
    EXAMPLES,
    GRADED_BITS,
    GRADED_WIDTH,
    RATE,
    STEPS,
    WIDTH,
    Known,
    Shelf,
    trained,
)
from skilloc.relearning.plasticity import unseen_parity
from skilloc.relearning.rules import BROKEN, KEPT, PARTLY, REMOVED
from skilloc.tasks import Examples, Split, Subtask, joined
from skilloc.tasks.parity import parity_subtasks
from skilloc.tasks.streams import seed_of, stream
from skilloc.training import TrainConfig, train
from skilloc.training.many import retrain


def removed(attacked: Subtask, kept: Sequence[Subtask], count: int, seed: int) -> list[Known]:
    """Return networks that never saw the skill, or its inputs with answers by coin; seeds are not the control's."""
    never = trained(kept, seed, count, of=1)
    coins, streamed = _by_coin(attacked), stream(kept, EXAMPLES, seed=1000 * seed + 2)

    def sample(step: int) -> Examples:
        return joined([streamed(step), coins.draw(EXAMPLES, split="train", seed=seed_of(seed, step))])

    filtered = trained(kept, seed, count, of=2, sample=sample)
    return [
        *(Known(f"never saw {i}", "never saw", REMOVED, 0.0, model) for i, model in enumerate(never)),
        *(Known(f"data-filtered {i}", "data-filtered", REMOVED, 0.0, model) for i, model in enumerate(filtered)),
    ]


def _by_coin(subtask: Subtask) -> Subtask:
    """Return a subtask with the inputs of another one, and answers by coin."""

    def sample(n: int, split: Split, seed: int) -> Examples:
        drawn = subtask.draw(n, split=split, seed=seed)
        coins = torch.randint(2, (n,), generator=torch.Generator().manual_seed(seed_of(seed, n)))
        return replace(drawn, inputs=drawn.first.clone(), targets=coins)

    return Subtask("coins", sample)


def damaged(originals: Sequence[MLP], count: int, seed: int) -> list[Known]:
    """Return networks of noise with the spread of the originals' weights."""
    found = []
    for i in range(count):
        model, generator = originals[i % len(originals)], torch.Generator().manual_seed(seed_of(seed, 3, i))
        noisy = widened(model)
        with torch.no_grad():
            for parameter, old in zip(noisy.parameters(), model.parameters(), strict=True):
                parameter.copy_(old.std() * torch.randn(old.shape, generator=generator))
        found.append(Known(f"noise {i}", "noise", BROKEN, None, noisy))
    return found


def untouched(originals: Sequence[MLP], kept: Sequence[Subtask], count: int, seed: int) -> list[Known]:
    """Return an original, and copies of it that were trained on what is kept."""
    chosen = [widened(originals[0]) for _ in range(count)]
    config = TrainConfig(steps=200, rate=1e-3)
    for i, model in enumerate(chosen):
        sample = stream(kept, EXAMPLES, seed=1000 * seed + 40 + i)
        for _ in retrain([model], sample, config, lambda _: None):
            pass
    copy = Known("untouched 0", "untouched", KEPT, 1.0, originals[0])
    return [copy, *(Known(f"finetuned {i}", "finetuned", KEPT, 1.0, model) for i, model in enumerate(chosen))]


class _Frozen:
    """Puts the weights of the first neurons back after every step, so that only added ones learn."""

    def __init__(self, model: MLP, base: MLP) -> None:
        self.pairs = [(new, old) for new, old in zip(model.parameters(), base.parameters(), strict=True)]

    @torch.no_grad()
    def after_step(self, optimiser: torch.optim.Optimizer) -> None:
        """Put them back."""
        for new, old in self.pairs:
            new[tuple(slice(0, length) for length in old.shape)] = old

    def after_evaluation(self, row: Mapping[str, float]) -> Mapping[str, float]:
        """Add nothing."""
        return {}

    def state(self) -> Mapping[str, float]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:
        """Put back nothing."""


def planted(attacked: Subtask, kept: Sequence[Subtask], count: int, seed: int) -> list[Shelf]:
    """Teach networks that never saw the skill this skill, in neurons of its own, and cut these out again."""
    bases = trained(kept, seed, count, of=5, width=32)
    shelves = []
    for i, base in enumerate(bases):
        fresh = MLP(base.cfg.d_in, 2, WIDTH, 3, seed=seed_of(seed, 6, i) % 2**31)
        rule = _Frozen(fresh, base)
        with torch.no_grad():
            # What the base reads or writes is its own: added neurons must not disturb it before they have learned.
            cast(nn.Linear, fresh.layers[1]).weight[:32, 32:] = 0
        rule.after_step(cast(Any, None))
        config = TrainConfig(steps=STEPS, rate=RATE)
        sample = stream([*kept, attacked], EXAMPLES, seed=1000 * seed + 60 + i)
        train(fresh, sample, config, evaluate={}, rules=[rule], seed=seed, progress=False)
        units = units_of(fresh)
        place = np.concatenate([np.arange(width) for width in units.widths])
        cut = prune(fresh, Mask(units, place < 32))
        known = Known(f"planted and cut {i}", "planted and cut", REMOVED, 0.0, cut)
        shelves.append(Shelf(fresh, attacked, tuple(kept), unseen_parity(attacked, kept), (known,)))
    return shelves


def lasso(count: int, seed: int) -> list[Shelf]:
    """Leave a handful of units by group lasso on one parity of four: another is gone, and nothing can be learned."""
    world = list(parity_subtasks(BITS, atoms=4, k=3).values())
    shelves = []
    for i, original in enumerate(trained(world, seed, count, of=7)):
        training = TrainConfig(steps=2000, rate=3e-3)
        config = LocalizeConfig(training, examples=EXAMPLES, held_out=500, wanted_loss=0.05)
        finetuned, _ = localize(original, [world[0]], config, seed=1000 * seed + i)
        units = units_of(finetuned, kinds=("neuron",))
        small = prune(finetuned, Mask(units, group_norms(finetuned, units) > 0))
        known = Known(f"lasso {i}", "lasso", BROKEN, None, small)
        shelves.append(Shelf(original, world[1], (world[0],), unseen_parity(world[1], world), (known,)))
    return shelves


def graded(count: int, seed: int) -> Shelf:
    """Teach networks some of four parities that are asked at random."""
    *kept, a, b, c, d = parity_subtasks(GRADED_BITS, atoms=6, k=3).values()
    facts = (a, b, c, d)
    asked = _mixture("facts", facts)
    known = []
    made: dict[int, list[MLP]] = {}
    for known_facts, truth in ((0, REMOVED), (1, PARTLY), (2, PARTLY), (4, KEPT)):
        more = int(known_facts == 4)
        made[known_facts] = trained(
            [*kept, *facts[:known_facts]], seed, count + more, of=8 + known_facts, width=GRADED_WIDTH
        )
        for i, model in enumerate(made[known_facts][:count]):
            kind = f"{known_facts} of 4 facts"
            known.append(Known(f"{kind}, {i}", kind, truth, known_facts / 4, model))
    return Shelf(made[4][-1], asked, tuple(kept), None, tuple(known))


def _mixture(name: str, parts: Sequence[Subtask]) -> Subtask:
    """Return a subtask whose examples are those of some others, in equal numbers, mixed."""

    def sample(n: int, split: Split, seed: int) -> Examples:
        each = -(-n // len(parts))
        drawn = [part.draw(each, split=split, seed=seed_of(seed, i)) for i, part in enumerate(parts)]
        order = torch.randperm(each * len(parts), generator=torch.Generator().manual_seed(seed_of(seed, 99)))[:n]
        return joined([replace(one, inputs=one.first.clone(), targets=one.targets.clone()) for one in drawn]).chosen(
            order
        )

    return Subtask(name, sample)
