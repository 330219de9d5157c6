"""Arms that tell composition from hardness: what a composite parity is trained beside, and parities that compare."""

from collections.abc import Iterable
from dataclasses import replace

from skilloc.experiments.arms import Arm
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.worlds import halved_world


def control_arms(base: ParityTraining, *, k: int, atoms: int) -> dict[str, Arm]:
    """Return the arms of one world: a composite of all its atoms, each of k bits, and what it is trained beside.

    - "all atoms": its atoms;
    - "straddling", "outside": its atoms, and a parity of as many bits that is no composite of them (`halved_world`);
      both the composite and that parity are asked about;
    - "all but one", "one": some of its atoms;
    - "other atoms": atoms of other bits, as many, while its own are never trained;
    - "alone": nothing, and as many examples per step in all as with its atoms.

    Args:
        base: n, the network, and how it is trained; sets, composites, and what is trained are replaced.
        k: bits per atom.
        atoms: number of atoms.
    """
    bits = [tuple(range(k * i, k * (i + 1))) for i in range(2 * atoms)]
    single = [f"parity_{i}" for i in range(atoms)]
    code, other = tuple(range(atoms)), tuple(range(atoms, 2 * atoms))
    plain = replace(base, sets=tuple(bits[:atoms]), composites=(code,))
    name = _name(code)
    arms = {"all atoms": _arm(plain, (*single, name), name)}
    sets, parts = halved_world(k, atoms)
    for parity in ("straddling", "outside"):
        codes = [parts[part] for part in (*(f"atom_{i}" for i in range(atoms)), "composite", parity)]
        world = replace(base, sets=sets, composites=tuple(code for code in codes if len(code) > 1))
        arms[parity] = _arm(world, map(_name, codes), _name(codes[-2]), _name(codes[-1]))
    arms["all but one"] = _arm(plain, (*single[:-1], name), name)
    arms["one"] = _arm(plain, (single[0], name), name)
    far = replace(base, sets=tuple(bits), composites=(other,))
    arms["other atoms"] = _arm(far, (*single, _name(other)), _name(other))
    arms["alone"] = _arm(replace(plain, each=base.each * (atoms + 1)), (name,), name)
    return arms


def pair_arms(base: ParityTraining, *, n: int) -> dict[str, Arm]:
    """Return "both", a composite of two atoms of 3 of n bits beside its atoms, and "alone", as many examples per step.

    Args:
        base: the network, and how it is trained; the world and what is trained are replaced.
        n: number of task bits.
    """
    world = replace(base, n=n, sets=((0, 1, 2), (3, 4, 5)), composites=((0, 1),))
    name = _name((0, 1))
    return {
        "both": _arm(world, ("parity_0", "parity_1", name), name),
        "alone": _arm(replace(world, each=3 * base.each), (name,), name),
    }


def _arm(training: ParityTraining, trained: Iterable[str], *asked: str) -> Arm:
    return Arm(replace(training, trained=tuple(trained), stop_on=asked), asked)


def _name(code: tuple[int, ...]) -> str:
    return f"parity_{code[0]}" if len(code) == 1 else f"composite_{''.join(map(str, code))}"
