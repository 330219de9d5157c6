"""`skilloc prune`: the smaller model without the units that some subtasks do not need."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from skilloc.cli.machine import Machine
from skilloc.cli.places import Places, following, open_for, places_of
from skilloc.cli.workers import cores
from skilloc.mistakes import WORKERS, WrongValue, in_share, whole


@dataclass(frozen=True)
class Command:
    """Prune the units that some subtasks need least, and save the smaller model.

    Units are chosen by the effects in DIR; losses are stated on another split of the examples, beside random masks with
    as many units on every hook.
    """

    places: Places
    """a folder that `skilloc effects` wrote, with the effects of all units; before it the model, where DIR does not say
    where that lies"""
    out: Path
    """folder for the smaller model (PATH/model), the curve and the report"""
    count: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """number of units to keep"""
    share: Annotated[float | None, arg(metavar="SHARE", help_behavior_hint="")] = None
    """instead: share of the units to keep, such as 0.5"""
    keep: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="(default: all)")] = ()
    """subtasks that units are kept for"""
    units: Annotated[tuple[str, ...], arg(metavar="KIND ...", help_behavior_hint="(default: all)")] = ()
    """kinds of unit to prune: neuron, head, or another that DIR has"""
    iterative: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """measure the effects of what is left again after every N dropped units"""
    signed: bool = False
    """rank by signed effects, so that units which do harm go first (default: by their magnitude)"""
    per_layer: bool = False
    """keep the same share of every layer"""
    curve: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint="(default: 90 % to 5 %)")] = ()
    """other numbers of units to keep, for the curve"""
    reference: Annotated[str | None, arg(metavar="REFERENCE", help_behavior_hint="")] = None
    """what dropped units are held at: zero, or flat mean, which goes into biases (default: as in DIR)"""
    draws: int = 20
    """number of random masks beside each"""
    seed: int = 0
    """of the random masks"""
    workers: Annotated[int, arg(help_behavior_hint="")] = 0
    """threads, where effects are measured again (default: one per core)"""
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out, True)]

    def run(self) -> None:
        """Prune, save, print losses before and after."""
        whole("workers", self.workers, 0, WORKERS)
        for count in (*self.curve, *(one for one in (self.count, self.iterative) if one is not None)):
            whole("count", count)
        if self.share is not None:
            in_share("share", self.share)
        if (self.count is None) == (self.share is None):
            raise WrongValue("give `count`, a number of units, or `share`, and not both")
        from skilloc import store
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.pruning import Curve
        from skilloc.report.pictures import save_pictures
        from skilloc.report.pruning import pruning_section
        from skilloc.study.pruning import Choice, check_choice, prune_into

        model, (folder,) = places_of(self.places)
        effects = load_measured(folder).effects
        count = len(effects.units.only(self.units or effects.units.kinds))
        choice = Choice(
            keep=max(1, round(self.share * count)) if self.share is not None else self.count or 0,
            subtasks=self.keep,
            signed=self.signed,
            iterative=self.iterative,
            per_layer=self.per_layer,
            draws=self.draws,
            seed=self.seed,
            kinds=self.units,
            counts=self.curve,
            reference=self.reference,
        )
        check_choice(self.out, effects, choice)
        opened = open_for(self.machine, model, folder, effects)
        found = prune_into(
            self.out,
            opened,
            effects,
            choice,
            workers=self.workers or cores(),
        )
        section = pruning_section(found, store.load(Curve, self.out / "curve"))
        save_pictures(section.pictures, self.out)
        if self.json:
            print_json(found, out=self.out)
            return
        print_sections(section)
        lost = [name for name in effects.subtasks if self.keep and name not in self.keep]
        place = self.out / "model"
        again = ("effects", place, "--out", self.out / "effects")
        attack = ("relearn", opened.name, place, "--attack", lost[0], "--out", self.out / "attack") if lost else again
        print(f"saved in {self.out}; {following(*attack)}")
