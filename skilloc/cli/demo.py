"""`skilloc demo`: what skilloc does, on the model and the text that every installation has."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from skilloc.mistakes import WORKERS, whole


@dataclass(frozen=True)
class Command:
    """Measure the embedded model on three corpora; write tables, pictures, circuits and a report. One to two minutes.

    Exact are the effects of all heads, of the last layer, of the largest estimates and of a random sample; the others
    are estimated from gradients, and how far that can be trusted is said.

    Killed at any moment, the same command goes on where it was.
    """

    out: Path = Path("skilloc-demo")
    """folder for the results"""
    full: bool = False
    """measure every unit exactly, and circuits of many sizes: several minutes; in a folder of its own"""
    workers: Annotated[int, arg(help_behavior_hint="")] = 0
    """threads of the exact sweep (default: one per core)"""
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out, True)]

    def run(self) -> None:
        """Run it, and print the tables and where the page is."""
        whole("workers", self.workers, 0, WORKERS)
        begun = time.monotonic()

        def report(line: str) -> None:
            print(f"{time.monotonic() - begun:4.0f} s  {line}", file=sys.stderr)

        report("loading")
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.cli.tour import FULL, QUICK, run_demo
        from skilloc.cli.workers import cores
        from skilloc.report.findings import sections_of

        found = run_demo(self.out, plan=FULL if self.full else QUICK, workers=self.workers or cores(), report=report)
        report("done")
        if self.json:
            print_json(found, folder=self.out)
            return
        print()
        print_sections(*sections_of(found))
        print(f"In plain words, with pictures: {self.out / 'summary.md'}")
        print(f"Everything as one page, with the circuits to look around in: {self.out / 'report.html'}")
