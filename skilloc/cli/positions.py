"""`skilloc positions`: at which positions a subtask needs its top units."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from skilloc.cli.machine import Machine
from skilloc.cli.places import Places, following, open_for, places_of
from skilloc.mistakes import whole


@dataclass(frozen=True)
class Command:
    """Hold the top units of each subtask at one position after the other, and measure what that costs.

    The examples are those of DIR, drawn again.
    """

    places: Places
    """a folder that `skilloc effects` wrote; before it the model, where DIR does not say where that lies"""
    count: int = 8
    """number of units per subtask"""
    names: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="(default: every place)")] = ()
    """names that the examples give to positions, such as last or subject"""
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """folder for the result (default: DIR/positions)"""
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Measure, save, print where each unit matters."""
        whole("count", self.count)
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.positions import positions_section
        from skilloc.report.scored import by_position as told_by_position
        from skilloc.study.positioned import by_position

        model, (folder,) = places_of(self.places)
        effects = load_measured(folder).effects
        out = self.out or folder / "positions"
        opened = open_for(self.machine, model, folder, effects)
        found = told_by_position(by_position(opened, effects, out, top=self.count, names=self.names))
        if self.json:
            print_json(found, out=out)
            return
        print_sections(positions_section(found))
        print(f"saved in {out}; {following('show', folder)}")
