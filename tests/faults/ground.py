"""What faults are tried on: a small network of a parity world, a study of it, and what was made from it."""

import shutil
from pathlib import Path

from faults.driver import copied, ran

PARITY = ("--subtask", "parity_0", "parity_1")
FEW = ("--sequences", "24", "--folds", "4")


def make_network() -> None:
    """Save a network that was trained for a moment, and its world, as the folder `net`."""
    import torch

    import skilloc as sk
    from skilloc.study.world import save_world

    subtasks = sk.parity_subtasks(6, atoms=2, k=2)

    def mixed(step: int) -> sk.Examples:
        drawn = [subtask.draw(32, split="train", seed=step) for subtask in subtasks.values()]
        return sk.Examples(torch.cat([one.inputs for one in drawn]), torch.cat([one.targets for one in drawn]))

    network = sk.MLP(8, 2, width=8, depth=3, seed=0)
    sk.train(network, mixed, sk.TrainConfig(steps=200, rate=1e-2), evaluate={}, progress=False)
    sk.save_model(network, "net")
    save_world(subtasks.values(), "net")


COMMANDS: dict[str, tuple[str, ...]] = {
    "effects": ("effects", "net", "--out", "study", *PARITY, *FEW, "--workers", "1"),
    "two-stage": (
        *("effects", "net", "--out", "stage", *PARITY, *FEW, "--workers", "1", "--method", "two-stage"),
        *("--sample", "10", "--top", "2"),
    ),
    "removal": ("removal", "study", "--count", "2", "3", "--draws", "3"),
    "locality": ("locality", "study", "--count", "3"),
    "circuit": ("circuit", "study", "--out", "study/circuits", "--count", "4", "--draws", "3"),
    "localize": (
        *("localize", "net", "--keep", "parity_0", "--out", "local", *PARITY, "--steps", "450"),
        *("--examples", "16", "--held-out", "24", "--evaluate-every", "50"),
    ),
    "prune": ("prune", "study", "--out", "small", "--count", "9", "--draws", "3", "--keep", "parity_0"),
    "relearn": (
        *("relearn", "net", "small/model", "--attack", "parity_1", "--out", "attack", *PARITY, "--seeds", "2"),
        *("--rates", "0.01", "--budgets", "1", "2", "--examples", "16", "--held-out", "16", "--folds", "4"),
        *("--repair", "2"),
    ),
    "show": ("show", "study"),
    "compare": ("compare", "study", "again", "--out", "compared"),
    "report": ("report", "study"),
}
"""By what is tried: a command line that works on the ground, in the order in which each finds what it needs."""


def make_ground(place: Path) -> dict[str, Path]:
    """Run everything once, each command after what it needs; return the folder that each command finds, by name."""
    home = place / "0"
    home.mkdir()
    made = ran(home, make_network)
    assert made.status == 0, made.error
    homes = {}
    for name, command in COMMANDS.items():
        if name == "compare":
            shutil.copytree(home / "study", home / "again")
        homes[name] = home
        home = copied(home, place / str(len(homes)))
        done = ran(home, command)
        assert done.status == 0, f"{name}: {done.error}"
    return homes
