"""The relearning probe over many workers: what a worker is told, and what it makes of it.

A worker opens the models under their names, makes the controls of one seed and candidate again, and refuses if a run
would be about anything else: a run's name has the digests of models and examples in it.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from skilloc import store
from skilloc.experiment.record import versions
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.models.makers import face_of
from skilloc.relearning import UNSEEN, WAYS, Grid, never_saw_like, relearn_controls
from skilloc.relearning.controls import cut_alike, larger
from skilloc.relearning.question import Probe, probe_of
from skilloc.relearning.settings import Model
from skilloc.relearning.spread import Part, SeedRuns, do_part, spread_runs
from skilloc.store.progress import progress
from skilloc.study.draws import loss_of, subtasks_of
from skilloc.study.elsewhere import PATIENCE, made_once, model_again, named_model
from skilloc.study.settings import Settings
from skilloc.sweep import Doing, Order
from skilloc.tasks import Subtask
from skilloc.tasks.asked import Asked


@dataclass(frozen=True)
class AttackSettings:
    """What is attacked, and how.

    Attributes:
        attack: name of the subtask that was to be removed.
        train: names of the subtasks that the attacker trains on; the attacked one if not given.
        grid: rates, budgets and sizes.
        seeds: of the attack.
    """

    attack: str
    train: Sequence[str] = ()
    grid: Grid = field(default_factory=Grid)
    seeds: Sequence[int] = (0, 1, 2)

    def record(self) -> dict[str, Any]:
        """Return the fields. JSON only."""
        return {"attack": self.attack, "train": list(self.train), "seeds": list(self.seeds), **self.grid.record()}


class Attack(NamedTuple):
    """Models and subtasks of a relearning study; see `attack_models`."""

    original: Opened
    pruned: Mapping[str, Opened]
    subtasks: Mapping[str, Subtask]
    settings: AttackSettings
    others: Mapping[str, Opened]

    @property
    def kept(self) -> list[Subtask]:
        """What was to be kept."""
        return [subtask for name, subtask in self.subtasks.items() if name != self.settings.attack]

    @property
    def asked(self) -> tuple[list[Subtask], Subtask, list[Subtask]]:
        """What is trained, what is measured, and what was to be kept."""
        attack = self.settings.attack
        trained = [self.subtasks[name] for name in self.settings.train or (attack,)]
        return trained, self.subtasks[attack], self.kept

    def models(self, name: str, seeds: Sequence[int]) -> dict[str, Model]:
        """Return a candidate and its controls, of its own shape."""
        opened, kept, others = self.pruned[name], self.kept, self.others
        models: dict[str, Model] = relearn_controls(self.original.model, opened.model, seeds=seeds)
        if UNSEEN not in others and kept and face_of(opened.model).chain is not None:
            # Networks of this kind learn in seconds, so that each candidate gets some of its own shape.
            models[UNSEEN] = never_saw_like(opened.model, kept, seeds=seeds)
        models |= {control: other.model for control, other in others.items()} | {name: opened.model}
        if UNSEEN in others and kept and larger(others[UNSEEN].model, opened.model):
            models[UNSEEN] = cut_alike(others[UNSEEN].model, opened.model, kept)
        return models


def shared_by_parts(attack: Attack) -> str:
    """Return what a worker needs to make an attack again, as JSON.

    Raises:
        ValueError: if a worker could not make it: a model has hooks of the user's own, a subtask has no source, or a
            loss or a way to attack is the user's own.
    """
    here, grid = "measure in this process, without a `Pool`", attack.settings.grid
    if missing := [name for name, one in attack.subtasks.items() if not (one.made or {}).get("source")]:
        raise WrongValue(
            f'the subtask "{missing[0]}" has no source that other processes could read; make it by subtasks_of, or '
            f"{here}"
        )
    if not grid.metric.ready:
        raise WrongValue(
            f'`loss` is "{grid.metric.name}", a function of your own, which other processes would have to find; use '
            f"one that is ready, such as cross_entropy, or {here}"
        )
    if own := [way.name for way in grid.ways if way not in WAYS]:
        raise WrongValue(
            f'`ways` has "{own[0]}", which is no way of skilloc.relearning.WAYS, so that other processes do not know '
            f"it; leave it out, or {here}"
        )
    told = {
        "original": named_model(attack.original),
        # As lists: names in JSON are sorted, and models that are trained side by side have an order.
        "pruned": [(name, named_model(opened)) for name, opened in attack.pruned.items()],
        "others": [(name, named_model(opened)) for name, opened in attack.others.items()],
        "subtasks": [(name, dict(subtask.made or {})) for name, subtask in attack.subtasks.items()],
        "attack": attack.settings.attack,
        "train": list(attack.settings.train),
        "seeds": list(attack.settings.seeds),
        "grid": grid.record(),
        "versions": dict(versions()),
    }
    return store.canonical(told)


def attack_elsewhere(shared: str, name: str, probe: Probe, doing: Callable[[], Doing], out: Path) -> None:
    """Have the runs of a candidate and its controls done by workers.

    Args:
        shared: see `shared_by_parts`.
        name: of the candidate.
        probe: what is asked of it.
        doing: gives the workers; not called if all is there.
        out: the folder of the study.
    """

    def do(parts: Sequence[Part]) -> None:
        items = {store.key(item): item for item in ({"candidate": name, **part._asdict()} for part in parts)}

        def found(path: Path) -> bool:
            return all(store.is_complete(out / "runs" / key) for key in items[path.name]["keys"])

        order = Order(f"{__name__}:attack_item", shared, out, json.loads(shared)["original"]["home"], found, PATIENCE)
        if items:
            for _ in progress(doing()(items, order), f"attacking {name}", total=len(items)):
                pass

    spread_runs(probe, do)


def attack_item(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Do a part of an attack in another process, and keep what is found."""
    part = Part(item["seed"], tuple(item["models"]), tuple(item["keys"]))
    do_part(made_once(f"attack {shared}", lambda: _Attacking(shared, out)).runs(item["candidate"], part.seed), part)


class _Attacking:
    """An attack that was told; of its seeds and candidates, the models of one at a time."""

    def __init__(self, shared: str, out: Path) -> None:
        self.out, self.attack = out, attack_again(json.loads(shared))
        self._about: tuple[str, int] | None = None
        self._runs: SeedRuns | None = None

    def runs(self, name: str, seed: int) -> SeedRuns:
        """Return the runs with a seed on a candidate and its controls."""
        if self._runs is None or self._about != (name, seed):
            self._runs = None  # the models of two seeds need twice the memory
            self._about, self._runs = (name, seed), self._made(name, seed)
        return self._runs

    def _made(self, name: str, seed: int) -> SeedRuns:
        attack, settings = self.attack, self.attack.settings
        # Small networks that never saw the subtask are trained together, all seeds.
        chain = face_of(attack.pruned[name].model).chain is not None
        seeds = settings.seeds if chain else (seed,)
        models = attack.models(name, seeds)
        place = list(seeds).index(seed)
        one = {
            called: listed if isinstance(listed, nn.Module) else [listed[place]] for called, listed in models.items()
        }
        return SeedRuns(probe_of(one, attack.asked, settings.grid, (seed,), self.out), 0)


def attack_again(told: Mapping[str, Any]) -> Attack:
    """Return an attack that was told.

    Raises:
        ValueError: if it cannot be made here, or is not the same.
    """
    if told["versions"] != versions():
        raise WrongValue(
            f"this worker would attack with {dict(versions())}, and not {told['versions']}; give all workers the same "
            "libraries"
        )
    original = model_again(told["original"])
    pruned, others = ({name: model_again(named) for name, named in told[which]} for which in ("pruned", "others"))
    with contextlib.chdir(told["original"]["home"]):
        subtasks = {name: _subtask_again(original, name, made) for name, made in told["subtasks"]}
    grid: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told["grid"].items()
    }
    by_name = {way.name: way for way in WAYS}
    own = {"ways": tuple(by_name[name] for name in grid["ways"]), "loss": loss_of(grid["loss"]["name"])}
    settings = AttackSettings(told["attack"], told["train"], Grid(**{**grid, **own}), told["seeds"])
    return Attack(original, pruned, subtasks, settings, others)


def _subtask_again(original: Opened, name: str, made: Mapping[str, Any]) -> Subtask:
    found = subtasks_of(
        original,
        {made.get("named", name): made["source"]},
        length=made.get("length", Settings.length),
        add_bos=None if made.get("add_bos", True) else False,
        asked=Asked(**made["asked"]) if "asked" in made else None,
    )
    if name not in found or json.loads(store.canonical(dict(found[name].made or {}))) != made:
        raise WrongValue(f'the texts of subtask "{name}" are others here; give all workers the same files')
    return found[name]
