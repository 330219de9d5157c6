"""The paper's parity worlds and networks, in one place: analyses that ask about the same networks share their cells."""

from dataclasses import replace

from _parity import ParityTraining

_CURRICULUM = ParityTraining(
    n=64,
    sets=tuple(tuple(range(4 * i, 4 * i + 4)) for i in range(4)),
    composites=((0, 1, 2, 3),),
    examples=2000,
    width=128,
    steps=20_000,
    rate=1e-3,
    stop_on=("composite_0123",),
)

_NONLOCALITY = ParityTraining(
    n=18,
    sets=tuple(tuple(range(3 * i, 3 * i + 3)) for i in range(6)),
    composites=((0, 1, 2), (3, 4, 5)),
    examples=2000,
    width=64,
    steps=20_000,
    rate=1e-3,
)


def curriculum_network(*, width: int = 128, depth: int = 3, seed: int = 0) -> ParityTraining:
    """Return the network of figures 2 and 7: four atoms of 4 of 64 bits, and the composite of all four.

    As in the paper, but for 20,000 steps of its 200,000; stops once the composite is learned.
    """
    return replace(_CURRICULUM, width=width, depth=depth, seed=seed)


def nonlocality_network(width: int, seed: int) -> ParityTraining:
    """Return the network of figures 3 and 8 to 10: six atoms of 3 of 18 bits, composites 012 and 345.

    The paper's setting: 2000 examples of each of the 8 subtasks per step, depth 3, 20,000 steps.
    """
    return replace(_NONLOCALITY, width=width, seed=seed)


def tiny_nonlocality_network(seed: int) -> ParityTraining:
    """Return a network that trains in a second, with the same subtasks by name: six atoms of one bit."""
    sets = tuple((bit,) for bit in range(6))
    return replace(nonlocality_network(16, seed), n=9, sets=sets, examples=100, steps=400, rate=5e-3)
