"""`skilloc compare`: what differs between two models, or checkpoints of one, on the same examples."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.cli.places import top_of
from skilloc.mistakes import whole


@dataclass(frozen=True)
class Command:
    """Compare two studies on the same examples: effects, locality and circuits, with intervals paired over folds.

    Circuits that lie in both folders are compared. Everything is the second minus the first.
    """

    first: Annotated[Positional[Path], arg(metavar="A")]
    """a folder that `skilloc effects` wrote"""
    second: Annotated[Positional[Path], arg(metavar="B")]
    """another, of another model or checkpoint, on the same examples"""
    out: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """folder for the result, its page (compare.html) and compare.md; nothing is written if not given"""
    count: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """number of units that count as a subtask's top (default: 10, or fewer where fewer were measured)"""
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [] if self.out is None else [(self.out, True)]

    def run(self) -> None:
        """Compare, print, save."""
        from skilloc.circuits.comparison import compare

        if self.count is not None:
            whole("count", self.count)
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.comparison import comparison_sections
        from skilloc.report.page import find_circuits, write_comparison

        effects = [load_measured(folder).effects for folder in (self.first, self.second)]
        circuits = find_circuits(self.first).circuits, find_circuits(self.second).circuits
        found = compare(*effects, circuits=circuits, top=top_of(self.count, effects))
        if self.out is not None:
            write_comparison(found, self.out)
        if self.json:
            print_json(found, out=self.out)
            return
        print_sections(*comparison_sections(found))
        if self.out is not None:
            print(f"saved in {self.out}; look at {self.out / 'compare.html'}")
