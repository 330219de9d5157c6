"""Training examples of any subtasks, as a function of the step: the `sample` of `training.train`."""

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import Examples
from skilloc.tasks.joining import joined
from skilloc.tasks.parity import FAMILY, parity_stream
from skilloc.tasks.subtask import Subtask

Stream = Callable[[int], Examples]
"""The examples of a step, as a pure function of the step, counted from 0."""


def stream(subtasks: Iterable[Subtask], examples: int, *, seed: int, pool: int | None = None) -> Stream:
    """Return the training examples of a step as a function of the step: `examples` per subtask, in the order given.

    Parity examples are infinite in number, and so fresh at each step (`parity_stream`). Of any other subtask, each step
    draws from the train split anew: of a text, rows without replacement within the step. Tensors may be the same ones
    at every call, filled anew: use them before the next call.

    Args:
        subtasks: of one parity world, all of texts in rows of one length, or all of one kind of input. Prompts, which
            come with a mask, may differ in length: shorter ones are padded on the right.
        examples: number of examples per subtask and step.
        seed: which stream; step t of it does not depend on the steps before, so that training can go on anywhere.
        pool: train on a finite pool of this many examples of each subtask instead: all of them once in a random
            order, then in another order, and so on. A pool shares no example with `parity_stream` but by chance.

    Raises:
        ValueError: if there are no subtasks, they do not fit into one batch, or `examples` or `pool` is below 1; on the
            first step (with `pool`, at once) if a finite subtask has fewer training examples.
    """
    listed = list(subtasks)
    if not listed:
        raise WrongValue("`subtasks` is empty; pass at least one")
    if examples < 1 or (pool is not None and pool < 1):
        raise WrongValue(f"`examples` is {examples} and `pool` {pool}; train on at least 1 example per subtask")
    if seed < 0:
        raise WrongValue(f"`seed` is {seed}; use 0 or more")
    if pool is not None:
        pools = [subtask.draw(pool, split="train", seed=seed) for subtask in listed]
        return _joined([_pooled(found, examples, (seed, place)) for place, found in enumerate(pools)])
    if any((subtask.made or {}).get("family") == FAMILY for subtask in listed):
        return parity_stream(listed, examples, seed=seed)
    return _joined([_drawn(subtask, examples, (seed, place)) for place, subtask in enumerate(listed)])


def _drawn(subtask: Subtask, examples: int, stream: tuple[int, int]) -> Callable[[int], Examples]:
    return lambda step: subtask.draw(examples, split="train", seed=seed_of(*stream, step))


def _pooled(pool: Examples, examples: int, stream: tuple[int, int]) -> Callable[[int], Examples]:
    """Cut an endless row of shuffled pools into steps."""

    @lru_cache(maxsize=4)
    def order(epoch: int) -> Int[Tensor, " example"]:
        return torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed_of(*stream, epoch)))

    def sample(step: int) -> Examples:
        first, last = step * examples, (step + 1) * examples
        epochs = range(first // len(pool), -(-last // len(pool)))
        chosen = torch.cat([order(epoch) for epoch in epochs])[first - epochs[0] * len(pool) :][:examples]
        return pool.chosen(chosen)

    return sample


def _joined(parts: list[Callable[[int], Examples]]) -> Stream:
    def sample(step: int) -> Examples:
        drawn = [part(step) for part in parts]
        if len(drawn) == 1:
            return drawn[0]
        # Padded to one length, longer texts would weigh more; prompts bring their mask, and are padded anyhow.
        plain = [part for part in drawn if part.mask is None]
        kinds = {(tuple(part.first.shape[1:]), part.first.dtype) for part in plain}
        if len(kinds) > 1 or 0 < len(plain) < len(drawn):
            raise WrongValue(
                f"`subtasks` have inputs of several widths and types, {sorted(map(str, kinds))}; "
                "train on texts of one length, or on one parity world"
            )
        return joined(drawn)

    return sample


def seed_of(*parts: int) -> int:
    """Return a seed that is made of some numbers; streams whose numbers differ do not meet."""
    # 63 bits: what torch takes.
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))
