"""`skilloc removal`: what happens to every subtask when the units that one of them needs most go together."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from skilloc.cli.machine import Machine
from skilloc.cli.places import Places, following, open_for, places_of
from skilloc.cli.workers import Workers
from skilloc.mistakes import whole


@dataclass(frozen=True)
class Command:
    """Remove the top units of each subtask together and measure all subtasks, beside random units of the same layers.

    The units are chosen on other folds than those reported. The examples are those of DIR, drawn again.
    """

    places: Places
    """a folder that `skilloc effects` wrote; before it the model, where DIR does not say where that lies"""
    count: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint="")] = ()
    """numbers of units to remove (default: 10, 30 and 100, as far as there are more)"""
    units: Annotated[tuple[str, ...], arg(metavar="KIND ...", help_behavior_hint="(default: all)")] = ()
    """kinds of unit to remove: neuron, head, or another that DIR has"""
    reference: Annotated[str | None, arg(metavar="zero|mean|flat mean|resample|paired", help_behavior_hint="")] = None
    """what removed units are held at: zero, mean, flat mean, resample or paired (default: as in DIR)"""
    draws: int = 20
    """number of random masks beside each removal, at least 2"""
    seed: int = 0
    """of the random masks"""
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """folder for the result (default: DIR/removal)"""
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Measure, save, print the matrices."""
        for size in self.count:
            whole("count", size)
        workers = self.workers.chosen(self.machine, threads=False)
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.removal import removal_section
        from skilloc.report.scored import removed
        from skilloc.study.removing import Removing, remove

        model, (folder,) = places_of(self.places)
        effects = load_measured(folder).effects
        out = self.out or folder / "removal"
        opened = open_for(self.machine, model, folder, effects)
        config = Removing(self.count, self.units, self.reference, self.draws, self.seed)
        removal = remove(opened, effects, out, config=config, workers=workers)
        found = removed(removal)
        if self.json:
            print_json(found, out=out)
            return
        print_sections(removal_section(found))
        print(f"saved in {out}; {following('show', folder)}")
