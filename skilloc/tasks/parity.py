"""Compositional multitask sparse parity: a world where some subtasks are made of others.

An example is m control bits and then n task bits, all 0 or 1. Task bits are uniform. Atom i has an index set, and
index sets are disjoint. A subtask is a set of atoms: their control bits are 1 and the others 0, and

    target = parity of the task bits in the union of the index sets of its atoms

[Michaud et al. 2025, section 2]. An atomic subtask has one atom, a composite several. Examples are infinite in number,
so that every draw is fresh; the splits are different streams of the same distribution.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from skilloc.mistakes import WrongValue, whole
from skilloc.tasks.examples import Examples
from skilloc.tasks.subtask import Split, Subtask

FAMILY = "parity"
WORD = 64
STREAM = len(get_args(Split))
"""The stream that training reads; the splits have the streams before it."""


def parity_subtasks(
    n: int,
    *,
    atoms: int | Sequence[Sequence[int]],
    k: int | None = None,
    composites: Sequence[Sequence[int]] = (),
) -> dict[str, Subtask]:
    """Return a parity world: atomic subtasks `parity_0`, `parity_1`, ... and composites such as `composite_012`.

    Args:
        n: number of task bits.
        atoms: number of atoms, whose index sets are then consecutive (0 to k-1, k to 2k-1, ...); or the index sets.
        k: size of consecutive index sets.
        composites: the atoms of each composite; ids above 9 are parted by `_` in the name.

    Raises:
        ValueError: if index sets overlap or do not fit into n bits, or a composite names no or unknown atoms.

    Example:
        >>> import skilloc as sk
        >>> list(sk.parity_subtasks(4, atoms=2, k=2))
        ['parity_0', 'parity_1']
    """
    whole("n", n)
    sets = _index_sets(n, atoms, k)
    codes: list[tuple[int, ...]] = [(i,) for i in range(len(sets))]
    for composite in composites:
        code = tuple(sorted(composite))
        _check_composite(code, len(sets))
        if code in codes:
            raise WrongValue(f"`composites` has {code} twice; name each composite once")
        codes.append(code)
    separator = "_" if len(sets) > 10 else ""
    found = {}
    for code in codes:
        name = f"parity_{code[0]}" if len(code) == 1 else f"composite_{separator.join(map(str, code))}"
        needs = () if len(code) == 1 else tuple(f"parity_{i}" for i in code)
        made = {"family": FAMILY, "n": n, "sets": [list(s) for s in sets], "code": list(code)}
        found[name] = Subtask(name, _sampler(made), needs, made)
    return found


def input_names(n: int, atoms: int) -> tuple[str, ...]:
    """Return what the inputs of a parity world are called: `control 0`, ..., then `bit 0`, ..."""
    return (*(f"control {i}" for i in range(atoms)), *(f"bit {i}" for i in range(n)))


def parity_stream(subtasks: Iterable[Subtask], examples: int, *, seed: int) -> Callable[[int], Examples]:
    """Return the training examples of a step as a function of the step: `examples` per subtask, in the order given.

    The examples are the same object at every call, filled anew: use them before the next call. The stream shares no
    random numbers with what `Subtask.draw` gives, whatever the seeds.

    Args:
        subtasks: of one parity world.
        examples: number of examples per subtask and step.
        seed: which stream; step t of it does not depend on the steps before, so that training can go on anywhere.

    Raises:
        ValueError: if there are no subtasks, they are of different worlds or of no parity world, or `examples` is below
            1.
    """
    listed = list(subtasks)
    if not listed:
        raise WrongValue("`subtasks` is empty; pass at least one")
    if examples < 1:
        raise WrongValue(f"`examples` is {examples}; train on at least 1 example per subtask and step")
    worlds = []
    for subtask in listed:
        made = dict(subtask.made or {})
        if made.get("family") != FAMILY:
            raise WrongValue(f'"{subtask.name}" is no parity subtask; pass those of parity_subtasks')
        worlds.append((made["n"], made["sets"]))
    if any(world != worlds[0] for world in worlds):
        raise WrongValue("`subtasks` are of different parity worlds; take them from one call of parity_subtasks")
    fill = _filler([dict(subtask.made or {}) for subtask in listed], examples)
    _check_seed(seed)
    batch = Examples(*fill((STREAM, seed, 0)))

    def sample(step: int) -> Examples:
        fill((STREAM, seed, step))
        return batch

    return sample


def _index_sets(n: int, atoms: int | Sequence[Sequence[int]], k: int | None) -> list[tuple[int, ...]]:
    if isinstance(atoms, int):
        if k is None or k < 1 or atoms < 1:
            raise WrongValue(
                f"`atoms` is {atoms} and `k` is {k}; give both as at least 1, or the index sets as `atoms`"
            )
        if atoms * k > n:
            raise WrongValue(
                f"{atoms} `atoms` of `k` {k} bits take {atoms * k} bits but `n` is {n}; use fewer or smaller atoms, "
                "or more bits"
            )
        return [tuple(range(i * k, (i + 1) * k)) for i in range(atoms)]
    if k is not None:
        raise WrongValue(f"`k` is {k} but `atoms` gives the index sets; leave `k` out, or give the number of atoms")
    owner: dict[int, int] = {}
    for i, bits in enumerate(atoms):
        if not len(bits):
            raise WrongValue(f"`atoms` gives atom {i} no bits; give each at least one")
        for bit in bits:
            if not 0 <= bit < n:
                raise WrongValue(f"`atoms` gives atom {i} bit {bit} but `n` is {n}; use bits from 0 to {n - 1}")
            if bit in owner:
                raise WrongValue(f"`atoms` gives bit {bit} to atoms {owner[bit]} and {i}; give each atom its own bits")
            owner[bit] = i
    if not owner:
        raise WrongValue("`atoms` is empty; give at least one index set")
    return [tuple(bits) for bits in atoms]


def _check_composite(code: tuple[int, ...], atoms: int) -> None:
    for i in code:
        if not 0 <= i < atoms:
            raise WrongValue(f"`composites` has {code} with unknown atom {i}; there are atoms 0 to {atoms - 1}")
    if len(set(code)) < 2 or len(set(code)) < len(code):
        raise WrongValue(f"`composites` has {code}; a composite needs at least two different atoms")


def _sampler(made: dict[str, Any]) -> Callable[[int, Split, int], Examples]:
    def sample(n: int, split: Split, seed: int) -> Examples:
        _check_seed(seed)
        # The code is part of the stream, so that subtasks that are drawn with one seed share no task bits.
        inputs, targets = _filler([made], n)((get_args(Split).index(split), seed, *made["code"]))
        return Examples(inputs, targets)

    return sample


def _filler(
    codes: Sequence[dict[str, Any]], examples: int
) -> Callable[[tuple[int, ...]], tuple[Float[Tensor, "example d_in"], Int[Tensor, "example"]]]:
    """Return a function from a stream to `examples` examples of every subtask, over the same memory each time."""
    n, sets = codes[0]["n"], codes[0]["sets"]
    control, rows, words = len(sets), examples * len(codes), -(-n // WORD)
    inputs = np.zeros((rows, control + n), dtype=np.float32)
    targets = np.empty((len(codes), examples), dtype=np.int64)
    masks = np.stack([_mask([bit for i in made["code"] for bit in sets[i]], words) for made in codes])
    for s, made in enumerate(codes):
        inputs[s * examples : (s + 1) * examples, made["code"]] = 1
    tensors = torch.from_numpy(inputs), torch.from_numpy(targets).view(-1)

    def fill(stream: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # SFC64 and whole words: a tenth of the time that one random integer per bit takes.
        raw = np.random.SFC64(np.random.SeedSequence(stream)).random_raw(rows * words).astype("<u8", copy=False)
        drawn = raw.reshape(len(codes), examples, words)
        targets[:] = np.bitwise_count(np.bitwise_xor.reduce(drawn & masks[:, None], axis=2)) & 1
        bits = drawn.view(np.uint8).reshape(rows, 8 * words)
        inputs[:, control:] = np.unpackbits(bits, axis=1, count=n, bitorder="little")
        return tensors

    return fill


def _mask(bits: Sequence[int], words: int) -> UInt64[np.ndarray, " word"]:
    mask = np.zeros(words, dtype="<u8")
    for bit in bits:
        mask[bit // WORD] |= np.uint64(1 << (bit % WORD))
    return mask


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise WrongValue(f"`seed` is {seed}; use 0 or more")
