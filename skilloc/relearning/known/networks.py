"""Small networks of which it is known whether they have a skill.

A world of 16 bits and three parities of three bits, of which the last is in question; and, for graded truths, one of 18
bits in which the skill is four parities that are asked at random. Networks of depth 3 learn them in a second each.

removed    never saw it (other seeds than the control's); saw its inputs with answers by coin (data-filtered); learned
           it in units of its own, which were cut out again (planted)
graded     learned 0, 1, 2 or all 4 of the four parities
hidden     see `hidings`
damaged    noise of the same spread as its weights; group lasso to a handful of units, which can learn nothing new
untouched  the original, and the original trained on what is kept
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.masks import Mask
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP, Shape
from skilloc.pruning import prune
from skilloc.relearning.controls import never_saw_like
from skilloc.relearning.known.added import widened
from skilloc.relearning.known.hiding import Hidden
from skilloc.relearning.known.hidings import HIDINGS
from skilloc.relearning.plasticity import unseen_parity
from skilloc.relearning.rules import BROKEN, KEPT, PARTLY, REMOVED
from skilloc.tasks import Examples, Split, Subtask, joined
from skilloc.tasks.parity import parity_subtasks
from skilloc.tasks.streams import seed_of, stream
from skilloc.training import Sample, TrainConfig, train
from skilloc.training.many import retrain

WIDTH, STEPS, RATE, EXAMPLES = 48, 1500, 5e-3, 100
"""Of every network, and of its training."""

BITS, GRADED_BITS, GRADED_WIDTH = 16, 18, 64


@dataclass(frozen=True)
class Truth:
    """What is known of a network.

    Attributes:
        name: one of its own.
        kind: what was done to it.
        truth: the word that is right.
        left: share of the skill that is left, 0 to 1; None for a damaged one.
    """

    name: str
    kind: str
    truth: str
    left: float | None


@dataclass(frozen=True)
class Known(Truth):
    """A network whose truth is known.

    Attributes:
        model: the network.
    """

    model: nn.Module


class Shelf(NamedTuple):
    """Networks that share an original, a shape and so their controls.

    Attributes:
        original: before anything was done to it.
        attacked: the skill in question.
        kept: what was to be kept.
        new: what nobody has seen.
        known: the networks.
    """

    original: nn.Module
    attacked: Subtask
    kept: tuple[Subtask, ...]
    new: Subtask | None
    known: tuple[Known, ...]


class Size(NamedTuple):
    """How many networks of each kind there are.

    Attributes:
        originals: each is hidden in every way.
        hidings: how many of the ways, from the first.
        each: networks of every other kind.
    """

    originals: int = 2
    hidings: int = len(HIDINGS)
    each: int = 4


def known_models(size: Size | None = None, *, seed: int = 0) -> list[Shelf]:
    """Return shelves of networks whose truth is known.

    Args:
        size: how many.
        seed: of all of them; other seeds make other networks.
    """
    size = size or Size()
    *kept, attacked = parity_subtasks(BITS, atoms=3, k=3).values()
    originals = [_trained([*kept, attacked], seed + i, 1, of=0)[0] for i in range(size.originals)]
    shelves = [_hidden(original, attacked, kept, size, i) for i, original in enumerate(originals)]
    flat = [shelf for listed in shelves for shelf in listed]
    first = originals[0]
    others = (
        _removed(attacked, kept, size.each, seed)
        + _damaged(originals, size.each, seed)
        + _untouched(originals, kept, size.each, seed)
    )
    flat.append(Shelf(first, attacked, tuple(kept), unseen_parity(attacked, kept), tuple(others)))
    flat += _planted(attacked, kept, size.each, seed)
    flat += _lasso(size.each - 1, seed)
    return [*flat, _graded(size.each - 1, seed)]


def never_saw(shape: Shape, kept: Sequence[Subtask], *, seeds: Sequence[int]) -> list[nn.Module]:
    """Return networks of a shape that learned all but the skill, one per seed."""
    model = MLP(shape.d_in, shape.d_out, shape.widths, len(shape.widths) + 1)
    return never_saw_like(model, kept, seeds=seeds)


def _trained(
    subtasks: Sequence[Subtask], seed: int, count: int, *, of: int, width: int = WIDTH, sample: Sample | None = None
) -> list[MLP]:
    """Return networks that learned some subtasks; those of another number `of` share no seed."""
    d_in = subtasks[0].draw(1).first.shape[1]
    made = [MLP(d_in, 2, width, 3, seed=seed_of(seed, of, i) % 2**31) for i in range(count)]
    config = TrainConfig(steps=STEPS, rate=RATE)
    sample = sample or stream(subtasks, EXAMPLES, seed=1000 * seed + of)
    for _ in retrain(made, sample, config, lambda _: None):
        pass
    return made


def _hidden(original: MLP, attacked: Subtask, kept: Sequence[Subtask], size: Size, place: int) -> list[Shelf]:
    """Return a shelf per shape of the networks in which the skill of one original is hidden."""
    control, bits = (cast(list[Any], dict(attacked.made or {})[part]) for part in ("code", "sets"))
    inputs = [len(bits) + bit for bit in bits[control[0]]]
    spare = [max(inputs) + 1 + i for i in range(len(inputs))]
    shapes: dict[Any, list[Known]] = {}
    for hiding in HIDINGS[: size.hidings]:
        others = [place for place in range(len(bits)) if place != control[0]]
        model = hiding.edit(original, Hidden(control[0], inputs, spare, others))
        found = Known(f"{hiding.name} {place}", hiding.name, KEPT, 1.0, model)
        shapes.setdefault(model.cfg.widths, []).append(found)
    new = unseen_parity(attacked, kept)
    return [Shelf(original, attacked, tuple(kept), new, tuple(known)) for known in shapes.values()]


def _removed(attacked: Subtask, kept: Sequence[Subtask], count: int, seed: int) -> list[Known]:
    never = _trained(kept, seed, count, of=1)
    coins, streamed = _by_coin(attacked), stream(kept, EXAMPLES, seed=1000 * seed + 2)

    def sample(step: int) -> Examples:
        return joined([streamed(step), coins.draw(EXAMPLES, split="train", seed=seed_of(seed, step))])

    filtered = _trained(kept, seed, count, of=2, sample=sample)
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


def _damaged(originals: Sequence[MLP], count: int, seed: int) -> list[Known]:
    found = []
    for i in range(count):
        model, generator = originals[i % len(originals)], torch.Generator().manual_seed(seed_of(seed, 3, i))
        noisy = widened(model)
        with torch.no_grad():
            for parameter, old in zip(noisy.parameters(), model.parameters(), strict=True):
                parameter.copy_(old.std() * torch.randn(old.shape, generator=generator))
        found.append(Known(f"noise {i}", "noise", BROKEN, None, noisy))
    return found


def _untouched(originals: Sequence[MLP], kept: Sequence[Subtask], count: int, seed: int) -> list[Known]:
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


def _planted(attacked: Subtask, kept: Sequence[Subtask], count: int, seed: int) -> list[Shelf]:
    """Teach networks that never saw the skill this skill, in neurons of its own, and cut these out again."""
    bases = _trained(kept, seed, count, of=5, width=32)
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


def _lasso(count: int, seed: int) -> list[Shelf]:
    """Leave a handful of units by group lasso on one parity of four: another is gone, and nothing can be learned."""
    world = list(parity_subtasks(BITS, atoms=4, k=3).values())
    shelves = []
    for i, original in enumerate(_trained(world, seed, count, of=7)):
        training = TrainConfig(steps=2000, rate=3e-3)
        config = LocalizeConfig(training, examples=EXAMPLES, held_out=500, wanted_loss=0.05)
        finetuned, _ = localize(original, [world[0]], config, seed=1000 * seed + i)
        units = units_of(finetuned, kinds=("neuron",))
        small = prune(finetuned, Mask(units, group_norms(finetuned, units) > 0))
        known = Known(f"lasso {i}", "lasso", BROKEN, None, small)
        shelves.append(Shelf(original, world[1], (world[0],), unseen_parity(world[1], world), (known,)))
    return shelves


def _graded(count: int, seed: int) -> Shelf:
    """Teach networks some of four parities that are asked at random."""
    *kept, a, b, c, d = parity_subtasks(GRADED_BITS, atoms=6, k=3).values()
    facts = (a, b, c, d)
    asked = _mixture("facts", facts)
    known = []
    made: dict[int, list[MLP]] = {}
    for known_facts, truth in ((0, REMOVED), (1, PARTLY), (2, PARTLY), (4, KEPT)):
        more = int(known_facts == 4)
        made[known_facts] = _trained(
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
