"""`skilloc effects`: what a model loses when it loses a unit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from skilloc.cli.machine import Machine
from skilloc.cli.places import following
from skilloc.cli.workers import Workers
from skilloc.mistakes import WrongValue, a_name, real, told, whole
from skilloc.study.settings import Settings
from skilloc.tasks.asked import MADE, Asked
from skilloc.tasks.reading import at_home

BUILTIN = ("python", "cpp", "english")

Model = Annotated[Positional[str], arg(metavar="MODEL")]
Subtask = Annotated[tuple[tuple[str, ...], ...], arg(metavar="NAME=SOURCE ..."), UseAppendAction]


@dataclass(frozen=True)
class Options(Settings):
    """The settings, as the help prints them."""

    units: Annotated[tuple[str, ...], arg(metavar="KIND ...")] = Settings.units
    method: Annotated[str, arg(metavar="ablation|attribution|two-stage")] = Settings.method
    reference: Annotated[str, arg(metavar="zero|mean|flat mean|resample|paired")] = Settings.reference
    loss: Annotated[str, arg(metavar="LOSS")] = Settings.loss
    at: Annotated[str, arg(metavar="WHERE")] = Settings.at
    split: Annotated[str, arg(metavar="train|selection|report")] = Settings.split
    layers: Annotated[tuple[int, ...], arg(metavar="LAYER ...", help_behavior_hint="(default: all)")] = ()
    only: Annotated[tuple[str, ...], arg(metavar="UNIT ...", help_behavior_hint="(default: all)")] = ()
    sample: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    top: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    exact: Annotated[tuple[str, ...], arg(metavar="KIND|last ...", help_behavior_hint="(default: none)")] = ()
    of: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    memory: Annotated[float | None, arg(metavar="GB", help_behavior_hint="")] = None


NONE = arg(metavar="FIELD", help_behavior_hint="")


@dataclass(frozen=True)
class Prompted(Asked):
    """The fields of prompts, as the help prints them."""

    prompt: Annotated[str | None, NONE] = None
    answer: Annotated[str, arg(metavar="FIELD")] = Asked.answer
    wrong: Annotated[str | None, NONE] = None
    corrupted: Annotated[str | None, NONE] = None
    group: Annotated[str | None, NONE] = None
    subject: Annotated[str | None, NONE] = None
    choices: Annotated[str | None, NONE] = None
    by: Annotated[str, arg(metavar="BY")] = Asked.by
    template: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    shots: Annotated[int, arg(metavar="N")] = 0
    pad: Annotated[str, arg(metavar="SIDE")] = Asked.pad
    rotation: Annotated[int, arg(metavar="N")] = 0


@dataclass(frozen=True)
class Command:
    """Measure or estimate the effect of every unit on every subtask: its loss without the unit minus its loss with it.

    Killed at any moment, the same command goes on where it was.
    """

    model: Model
    """embedded, smollm2, a hub name, a folder, or a .gguf file"""
    out: Path
    """folder for the results"""
    subtask: Subtask = ()
    """what to measure on. SOURCE is python, cpp or english (built in), a file, a quoted glob, data.jsonl#field,
    data.parquet#field or hub:owner/name#field. Without it: python, cpp and english. For a saved MLP, a subtask of its
    world.json, such as composite_012; without it, all"""
    settings: Annotated[Options, arg(name="")] = field(default_factory=Options)
    until: Annotated[float | None, arg(metavar="R", help_behavior_hint="")] = None
    """draw more and more text, until the lower end of every subtask's reliability is at least this, such as 0.5"""
    budget: Annotated[int, arg(metavar="TOKENS")] = 200_000
    """with `until`: begin no round on more tokens than this, of all subtasks together"""
    asked: Annotated[Prompted, arg(name="")] = field(default_factory=Prompted)
    anyway: bool = False
    """measure prompts with answers also where the model is not right more often than chance"""
    seconds: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="")] = None
    """begin no exact measurement after this time; the same command goes on for as long again"""
    workers: Annotated[Workers, arg(name="")] = field(default_factory=Workers)
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out, True)]

    def run(self) -> None:
        """Measure, save, print the units that each subtask needs most."""
        workers = self.workers.chosen(self.machine)
        whole("budget", self.budget)
        if self.until is not None:
            real("until", self.until, 0.0, 1.0, open_ends=(True, True))
        if self.seconds is not None:
            real("seconds", self.seconds, 0.0)
        sources = sources_of(self.subtask, builtin_of(self.model))
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.about import about, top_units
        from skilloc.report.bounds import first, subtasks_words
        from skilloc.report.calibration import calibration_section
        from skilloc.report.effects import measured_section, units_section
        from skilloc.report.prompts import prompts_section
        from skilloc.study.able import able_subtasks
        from skilloc.study.draws import loss_of, subtasks_of
        from skilloc.study.measure import measure
        from skilloc.study.until import Goal, measure_until

        if self.until is not None and self.seconds is not None:
            raise WrongValue("`until` and `seconds` do not go together; bound the work of `until` by `budget`")
        loss_of(self.settings.loss)  # refused before a model is read
        opened = self.machine.open(self.model)
        subtasks = subtasks_of(
            opened,
            sources,
            length=self.settings.length,
            asked=Asked(**vars(self.asked)),
            least=self.settings.sequences,
        )
        if not self.anyway:
            subtasks = able_subtasks(opened, subtasks, self.settings)
        until = None
        if self.until is None:
            study = measure(opened, subtasks, self.settings, self.out, workers=workers, seconds=self.seconds)
        else:
            until = measure_until(
                opened, subtasks, self.settings, self.out, Goal(self.until, self.budget), workers=workers
            )
            study = until.study
        found = None if study.compared is None else study.compared.calibration
        more = {} if until is None else {"until": until.record()}
        if self.json:
            print_json(about(study.effects), out=self.out, top=top_units(study.effects), calibration=found, **more)
            return
        for sentence in subtasks_words(len(study.effects.subtasks)):
            print(sentence)
        shown = first(study.effects)
        print_sections(
            measured_section(shown),
            prompts_section(shown),
            units_section(shown),
            None if study.compared is None else calibration_section(study.compared.of(shown.subtasks), None, None),
        )
        if until is not None:
            print(until)
        print(f"saved in {self.out}; {following('locality', self.out)}")


def sources_of(subtask: Sequence[Sequence[str]], builtin: Sequence[str] = BUILTIN) -> dict[str, str]:
    """Read NAME=SOURCE arguments; one that is built in may stand alone.

    Args:
        subtask: the arguments; none stand for all that are built in.
        builtin: what is built in (`builtin_of`).

    Raises:
        ValueError: if an argument is neither, or a name comes twice.
    """
    given = [pair for group in subtask for pair in group] or list(builtin)
    sources: dict[str, str] = {}
    for pair in given:
        name, equals, source = pair.partition("=")
        if not equals and pair in (*builtin, *MADE):
            source = pair
        if not name or not source:
            raise WrongValue(
                f'`subtask` is {told(pair)}; write NAME=SOURCE, such as rust="src/**/*.rs", or one of '
                + ", ".join(builtin)
            )
        if source in MADE and not Path(source).exists():
            raise WrongValue(
                f'`subtask` has "{source}", a behaviour that is made in the tokens of a model and not read from '
                "a file; measure it in Python, with skilloc.tasks.behaviours.behaviours (docs/behaviours.md)"
            )
        a_name("subtask", name)
        if name in sources:
            raise WrongValue(f'`subtask` has "{name}" twice; give each subtask a name of its own')
        sources[name] = source
    return sources


def builtin_of(model: str) -> tuple[str, ...]:
    """Return the sources that need no path: the built-in corpora, or the subtasks of the world beside a saved MLP."""
    folder = at_home(model)
    if not (folder / "world.json").is_file():
        return BUILTIN
    from skilloc.study.world import open_world

    return tuple(open_world(folder))
