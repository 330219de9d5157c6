"""`skilloc relearn`: is a skill that was pruned away removed, hidden, or is the model broken?"""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.cli.effects import BUILTIN, Model, Subtask, builtin_of, sources_of
from skilloc.cli.machine import Machine
from skilloc.cli.workers import Workers
from skilloc.mistakes import WrongValue, a_file_name, whole


@dataclass(frozen=True)
class Command:
    """Retrain pruned models on the subtask that was to be removed, beside controls, and say whether it was.

    Killed at any moment, the same command goes on where it was, also with other workers. A random mask of equal size
    and layers, and a network of the same shape that was never trained, are made here; name the other controls if you
    have them.
    """

    model: Annotated[Model, arg(metavar="ORIGINAL", help_behavior_hint="")] = ""
    """the model before anything was done to it: embedded, smollm2, a hub name, a folder, or a .gguf file"""
    pruned: Annotated[Positional[tuple[str, ...]], arg(metavar="PRUNED ...", help_behavior_hint="")] = ()
    """models that were made of it; NAME=MODEL gives one another name than that of its folder"""
    attack: Annotated[str, arg(metavar="NAME", help_behavior_hint="")] = ""
    """the subtask that was to be removed"""
    out: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """folder for the results"""
    self_test: bool = False
    """attack networks of which it is known whether they have a skill, and print what the probe says of them"""
    seed: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: 0)")] = None
    """of the networks of the self-test; an attack has `seeds`"""
    subtask: Subtask = ()
    """the attacked subtask and those that were to be kept, as for `skilloc effects`"""
    loss: Annotated[str, arg(metavar="LOSS")] = "cross_entropy"
    """what the attacker lowers, and what is measured: cross_entropy, answer, choice, logit_difference, or
    package.module:function"""
    train: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="(default: the attacked one)")] = ()
    """subtasks that the attacker trains on: related ones, or kept ones only"""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """learning rates"""
    budgets: tuple[int, ...] = (1, 4, 16, 64)
    """numbers of steps"""
    sizes: tuple[int, ...] = (0,)
    """numbers of training examples per subtask; 0 for fresh ones at every step"""
    examples: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """examples per subtask and step (default: 8 texts, or 250 examples of an MLP)"""
    length: int = 64
    """tokens per example"""
    held_out: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """examples per subtask that losses are measured on, on the selection and on the report split (default: 48 texts, or
    1000 examples of an MLP)"""
    folds: int = 8
    """disjoint parts of these, for error bars"""
    repair: int = 64
    """steps of repair on the kept subtasks, at most"""
    repair_rate: float = 1e-3
    """learning rate of the repair"""
    ways: Annotated[str, arg(metavar="all|plain")] = "all"
    """all ways of attacking, which takes hours for a language model; or plain, gradient descent alone: a first look,
    whose "removed" another way may overturn"""
    seeds: int = 3
    """number of seeds: of the attack's examples, of random masks and initial values"""
    never_saw: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """a network that was trained on everything but the attacked subtask; of the embedded model and a built-in corpus
    its sibling, such as embedded-without-python, without being asked. Cut to each candidate's size and shape"""
    plain: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """the original after finetuning for as long as localizing took, without the penalty"""
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [] if self.out is None else [(self.out, True)]

    def run(self) -> None:
        """Attack, save, draw, print the verdicts; or test the probe itself."""
        if self.self_test:
            if self.workers != Workers():
                raise WrongValue("`self_test` trains its networks in this process; leave out the options of workers")
            print_self_test(self.out, 0 if self.seed is None else self.seed)
            return
        if self.seed is not None:
            raise WrongValue(f"`seed` is {self.seed}, but it is of the self-test (--self-test); an attack has `seeds`")
        if not (self.model and self.pruned and self.attack and self.out):
            raise WrongValue(
                f'`attack` is "{self.attack}" and `out` {self.out}, with {len(self.pruned)} models; write skilloc '
                "relearn ORIGINAL PRUNED --attack NAME --out FOLDER, or skilloc relearn --self-test"
            )
        whole("seeds", self.seeds, 1, 1000)
        if self.ways not in ("all", "plain"):
            raise WrongValue(f'unknown `ways` "{self.ways}"; use all or plain')
        whole("length", self.length)
        for name in ("examples", "held_out"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name))
        for size in self.sizes:
            whole("sizes", size, 0)
        workers = self.workers.chosen(self.machine, threads=False)
        sources, named = sources_of(self.subtask, builtin_of(self.model)), _named(self.pruned)
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.relearning import PLAIN, PLAIN_WAYS, UNSEEN, WAYS, Grid
        from skilloc.report.relearning import attack_section, keep_attack
        from skilloc.study.attacking import AttackSettings
        from skilloc.study.draws import loss_of, subtasks_of
        from skilloc.study.relearning import attack_models, check_names

        check_names((self.attack, *self.train), sources)
        loss = loss_of(self.loss)
        original = self.machine.open(self.model, trained=True)
        grid = Grid(
            rates=self.rates,
            budgets=self.budgets,
            sizes=tuple(size or None for size in self.sizes),
            examples=self.examples or (250 if original.tokenizer is None else 8),
            held_out=self.held_out or (1000 if original.tokenizer is None else 48),
            folds=self.folds,
            repair=self.repair,
            repair_rate=self.repair_rate,
            loss=loss,
            ways=PLAIN_WAYS if self.ways == "plain" else WAYS,
        )
        given = {UNSEEN: self.never_saw or sibling_of(self.model, sources[self.attack]), PLAIN: self.plain}
        others = {name: self.machine.open(place, trained=True) for name, place in given.items() if place is not None}
        if self.never_saw is None and given[UNSEEN]:
            print(f"never saw: {given[UNSEEN]}, cut to each candidate's size and shape", file=sys.stderr)
        for said in self.undecided(language=original.tokenizer is not None, unseen=given[UNSEEN]):
            print(f"note: {said}", file=sys.stderr)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"(there is one rate|the best rate is)")  # the summary has it
            found = attack_models(
                original,
                {name: self.machine.open(place, trained=True) for name, place in named.items()},
                self.out,
                subtasks_of(original, sources, length=self.length),
                AttackSettings(self.attack, self.train, grid, range(self.seeds)),
                others=others,
                workers=workers,
            )
        for name, one in found.items():
            keep_attack(one, self.out, name)
        if self.json:
            print_json(out=self.out, results=found)
            return
        print_sections(*(attack_section(one, name) for name, one in found.items()))
        print(f"saved in {self.out}: per model a .json, and its recovery curves as .png and .svg")

    def undecided(self, *, language: bool, unseen: str | None) -> list[str]:
        """Return what is known of the verdict before the attack, in words; nothing of a whole one."""
        found = []
        if self.ways == "plain":
            found.append("gradient descent alone attacks; what it does not bring back, another way may")
        if self.seeds == 1 and not (language and unseen is None):
            found.append('one seed gives no interval, so that the verdict can only be "undecidable"; give `--seeds 2`')
        if language and unseen is None:
            found.append(
                f'no network that never saw "{self.attack}" is given, so that the verdict can only be "not '
                'comparable"; name one with `--never-saw`'
            )
        return found


def sibling_of(model: str, source: str) -> str | None:
    """Return the sibling of the embedded model that never saw a built-in corpus; None for other models and texts."""
    from skilloc.models.language import ASSETS

    name = f"{model}-without-{source}"
    return name if model == "embedded" and source in BUILTIN and (ASSETS / name).is_dir() else None


def print_self_test(out: Path | None, seed: int) -> None:
    """Run the self-test and print its tables; with a folder, write them and its record there, and go on from it."""
    from skilloc import store
    from skilloc.relearning.known import confusion, record_of, self_test

    found = self_test(seed=seed, out=None if out is None else out / "shelves")
    told = [
        f"{len(found)} networks whose truth is known",
        confusion(found),
        "with limits that were tuned without the kind of each network",
        confusion(found, left_out=True),
        *(f"{one.name}: {one.word}, not {one.truth}" for one in found if one.word != one.truth),
    ]
    print("\n\n".join(told))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        store.write_file(out / "self_test.md", store.with_seal("\n\n".join(told)))
        command = f"skilloc relearn --self-test --seed {seed} --out FOLDER"
        store.write_json(out / "self_test.json", record_of(found, command))


def _named(models: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for given in models:
        name, equals, place = given.partition("=")
        if not equals:
            # What `prune` and `localize` write lies in DIR/model.
            path = Path(given)
            name, place = path.parent.name if path.name == "model" and path.parent.name else path.name, given
        if not name or not place or name in found:
            raise WrongValue(f'"{given}" has no name, or one that is taken; write NAME=MODEL, each with its own name')
        a_file_name("pruned", name)
        found[name] = place
    return found
