"""`skilloc circuit`: the units that carry a subtask, how they feed each other, and whether they are the skill."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from skilloc.cli.machine import Machine
from skilloc.cli.places import Runs, open_for, places_of
from skilloc.cli.workers import Workers
from skilloc.mistakes import WrongValue, in_share, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilloc.effects import Effects
    from skilloc.models.language import Opened


@dataclass(frozen=True)
class Command:
    """Trace the circuit of each subtask: its units, the edges between them, and what they keep of the skill.

    Units are learned together by gates, on the train split; everything stated is measured on a split that chose
    nothing. That costs 40 steps of 512 tokens, forward and backward, for each size on the way down to the wanted one.
    --by effects takes the units with the largest effects in DIR instead, which costs nothing more. Several folders
    (other seeds or references, of one model) give the circuits that they agree on, measured in each.
    """

    places: Runs
    """a folder that `skilloc effects` wrote; before it the model, where DIR does not say where that lies"""
    out: Path
    """folder for the circuits"""
    subtask: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="(default: all)")] = ()
    """subtasks to trace"""
    count: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """this many units (default: 50, or half of those that were measured)"""
    faithfulness: Annotated[float | None, arg(metavar="SHARE", help_behavior_hint="")] = None
    """instead: the smallest circuit that keeps this share of the skill, such as 0.9, of the sizes that are tried:
    all units halved again and again, and one size between each two (by effects, seven between)"""
    by: Annotated[str | None, arg(metavar="gates|effects", help_behavior_hint="")] = None
    """how units are chosen: learned together by gates, or the largest effects (default: gates; effects where the loss
    is a count, which has no gradient)"""
    paths: Annotated[str | None, arg(metavar="wires|total|direct", help_behavior_hint="")] = None
    """edges within the circuit alone, by what each lowers the loss there (wires); or in the whole model, along all
    paths (total), or only along what a unit itself writes (direct). Default: wires, and total for a circuit of over 100
    units, unless it is of an MLP"""
    reference: Annotated[str | None, arg(metavar="zero|mean|flat mean|resample|paired", help_behavior_hint="")] = None
    """what all other units are held at: zero, mean, flat mean, resample or paired (default: as in DIR)"""
    agreement: float = 0.75
    """of several DIR: the share of them that a unit must be in, so of two or three all"""
    sizes: Annotated[tuple[int, ...], arg(metavar="N ...", help_behavior_hint="(default: 1, 2, 4, ...)")] = ()
    """other numbers of units, for the curve of what circuits keep"""
    draws: int = 20
    """number of random circuits beside each size, and of random sets of edges beside those drawn"""
    edges: int = 5000
    """number of edges to keep, the largest. Those that are drawn (of wires, as few as keep 80 % of what all do, chosen
    on the train split) are tested as a claim, all other paths cut, in circuits of up to 100 units: that takes a run
    per unit and set of edges; 0 measures none, as under a loss that is a count"""
    seed: int = 0
    """of the random circuits"""
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out, True)]

    def run(self) -> None:
        """Trace, save, print."""
        if self.count is not None:
            whole("count", self.count)
        if self.faithfulness is not None:
            in_share("faithfulness", self.faithfulness)
        in_share("agreement", self.agreement)
        if self.count is not None and self.faithfulness is not None:
            raise WrongValue("`count` and `faithfulness` are two ways to choose the units; give one of them")
        if self.by not in (None, "gates", "effects"):
            raise WrongValue(f'unknown `by` "{self.by}"; use gates or effects')
        workers = self.workers.chosen(self.machine, threads=False)
        from skilloc.attribution.measured import load_measured
        from skilloc.circuits.graph import GATES
        from skilloc.circuits.trace import Tracing
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.circuits import circuits_section
        from skilloc.report.circuits_found import circuits_found
        from skilloc.report.diagrams import draw_circuits
        from skilloc.study.folder import check_apart
        from skilloc.study.tracing import TOP, Choice, check_choice, trace_runs, trace_study

        model, folders = places_of(self.places, several=True)
        check_apart(self.out)
        runs = [load_measured(folder).effects for folder in folders]
        size = min(TOP, max(1, int(runs[0].measured.sum()) // 2)) if self.count is None else self.count
        chosen = (None if self.faithfulness is not None else size, self.faithfulness)
        # A share of examples is a count, which has no gradient.
        by = self.by or ("effects" if runs[0].unit == "share" else "gates")
        way = GATES if by == "gates" else ""
        choice = Choice(*chosen, way, self.subtask, self.reference, self.agreement)
        for effects in runs:
            check_choice(effects, choice)
        opened = open_for(self.machine, model, folders[0], runs[0])
        edges = 0 if runs[0].unit == "share" else self.edges
        config = Tracing(sizes=self.sizes or None, draws=self.draws, seed=self.seed, paths=self.paths, edges=edges)
        if len(runs) == 1:
            found = trace_study(opened, runs[0], self.out, choice, config, workers=workers)
        else:
            if self.reference is not None:
                raise WrongValue("`reference` is given, but several DIR have their own; leave it out, or give one DIR")
            found = trace_runs(opened, runs, self.out, choice, config, workers=workers)
        page = write_page(opened, runs[0], found, self.out)
        pictures = draw_circuits(found, self.out)
        told = circuits_found(found, runs[0])
        if self.json:
            print_json(told, out=self.out, page=page, pictures=pictures, model=opened.name)
            return
        print_sections(circuits_section(told))
        together = f", all side by side in {pictures[-1].stem}.*" if len(found) > 1 else ""
        print(f"saved in {self.out}: a .json, .graphml, .png, .svg and .pdf per subtask{together}; look at {page}")


def write_page(opened: "Opened", effects: "Effects", circuits: "Mapping[str, Any]", out: Path) -> Path:
    """Write the circuits as one page, with what their units do on examples and prompts; return where it is."""

    from skilloc.report import circuit_page, write
    from skilloc.study.on_prompts import write_shown
    from skilloc.study.redrawn import redraw

    names = list(dict.fromkeys(name for graph in circuits.values() for name in graph))
    examples, shown = write_shown(out, redraw(opened, effects), names, opened.tokenizer)
    path = out / "circuit.html"
    write(path, circuit_page(circuits, title=f"circuits of {opened.name}", examples=examples, shown=shown))
    return path
