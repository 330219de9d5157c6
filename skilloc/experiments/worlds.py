"""The paper's parity worlds and networks, in one place: analyses that ask about the same networks share their cells."""

from dataclasses import replace

from skilloc.experiments.parity import ParityTraining

_CURRICULUM = ParityTraining(
    n=64,
    sets=tuple(tuple(range(4 * i, 4 * i + 4)) for i in range(4)),
    composites=((0, 1, 2, 3),),
    each=2000,
    width=128,
    steps=20_000,
    lr=1e-3,
    stop_on=("composite_0123",),
)

_NONLOCALITY = ParityTraining(
    n=18,
    sets=tuple(tuple(range(3 * i, 3 * i + 3)) for i in range(6)),
    composites=((0, 1, 2), (3, 4, 5)),
    each=2000,
    width=64,
    steps=20_000,
    lr=1e-3,
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
    return replace(nonlocality_network(16, seed), n=9, sets=sets, each=100, steps=400, lr=5e-3)


def halved_world(k: int, atoms: int) -> tuple[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]]:
    """Return index sets of half atoms, and which of them make the parities that controls compare.

    Atom i has the bits ki to ki + k - 1, cut into halves of k // 2 and of the rest. A parity of as many bits as the
    composite of all atoms then need not be a composite of atoms: `straddling` takes the second half of each atom and
    fresh bits, `outside` has no bit in common with them.

    Args:
        k: bits per atom.
        atoms: number of atoms.

    Returns:
        The index sets, and sets of their numbers: "atom_0", "atom_1", ..., "composite", "straddling", "outside".

    Raises:
        ValueError: if `k` is below 2, which has no halves.
    """
    if k < 2:
        raise ValueError(f"`k` is {k}; use atoms of at least 2 bits, which have halves")
    half = k // 2
    halves = [part for i in range(atoms) for part in _cut(range(k * i, k * (i + 1)), half)]
    fresh, outside = k * atoms, (k + half) * atoms
    sets = (*halves, tuple(range(fresh, outside)), tuple(range(outside, outside + k * atoms)))
    parts: dict[str, tuple[int, ...]] = {f"atom_{i}": (2 * i, 2 * i + 1) for i in range(atoms)}
    parts["composite"] = tuple(range(2 * atoms))
    parts["straddling"] = (*range(1, 2 * atoms, 2), 2 * atoms)
    parts["outside"] = (2 * atoms + 1,)
    return sets, parts


def _cut(bits: range, half: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(bits[:half]), tuple(bits[half:])
