"""The demo: everything that skilloc says about the embedded model and three built-in corpora, in one to two minutes.

Effects of all neurons and heads, exact where that is cheap and else estimated, with the estimate's calibration (or all
of them exact, in several minutes); how local each skill is; how entangled they are; joint removal beside random
masks; the circuit of each corpus; pictures, a page in plain words, and all of it
as one report. Stopped at any moment, the same call goes on where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from skilloc import store
from skilloc.attribution import attribution_effects
from skilloc.attribution.calibration import calibrate
from skilloc.attribution.measured import Compared, save_compared
from skilloc.circuits.trace import Tracing
from skilloc.effects import Effects
from skilloc.models.language import Opened, open_model
from skilloc.report import write_report
from skilloc.report.findings import Findings
from skilloc.study.draws import experiment_of, subtasks_of
from skilloc.study.measure import measure
from skilloc.study.on_prompts import write_shown
from skilloc.study.removing import Removing, remove
from skilloc.study.settings import LAST, Settings
from skilloc.study.tracing import Choice, trace_study
from skilloc.tasks import Subtask
from skilloc.tasks.text import BUILTIN


@dataclass(frozen=True)
class Plan:
    """What a demo measures.

    Attributes:
        settings: how the effects are measured, and of which units exactly.
        sizes: numbers of neurons that are removed together.
        draws: number of random masks beside each removal.
        circuit: how the units of the circuits are chosen.
        tracing: how the circuits are measured.
    """

    settings: Settings
    sizes: tuple[int, ...]
    draws: int
    circuit: Choice
    tracing: Tracing


QUICK = Plan(
    Settings(sequences=16, length=32, method="two-stage", exact=("head", LAST), sample=32, top=10),
    sizes=(10, 100),
    draws=2,
    circuit=Choice(10, by="estimates, of which the largest were measured"),
    tracing=Tracing(sizes=(), draws=2, adds=False),
)
"""Exact where that is cheap: all heads, the last layer, the top of the estimate and a random sample that calibrates it.
1,536 tokens in all; many short examples tell more than few long ones, because documents differ."""

FULL = Plan(
    Settings(sequences=24, length=32),
    sizes=(10, 30, 100),
    draws=3,
    circuit=Choice(30),
    tracing=Tracing(draws=2, adds=False),
)
"""Every unit exactly, of the embedded model 2,072; and for each circuit, those of other sizes."""


@store.working("folder", inside=True)
def run_demo(
    folder: Path,
    *,
    plan: Plan = QUICK,
    workers: int = 1,
    model: str = "embedded",
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Measure, draw and summarise the embedded model into a folder.

    Args:
        folder: where everything is kept; a study, so that `skilloc show` and the others read it.
        plan: what to measure.
        workers: number of threads of the exact sweep.
        model: another model.
        report: told, line by line, what is being done, and the first numbers.

    Returns:
        What was found, and what the pages were written from.

    Raises:
        ValueError: if the folder belongs to another study.
    """
    report(f"opening {model}, drawing examples of {', '.join(BUILTIN)}")
    opened, settings = open_model(model), plan.settings
    subtasks = subtasks_of(opened, {name: name for name in BUILTIN}, length=settings.length)
    if settings.estimates:
        report("estimating the effect of every unit from gradients")
        first = measure(opened, subtasks, settings, folder, workers=workers, seconds=0.0)
        _first_numbers(first.effects, report)
        report("measuring exactly: heads, the last layer, the largest estimates, and a random sample")
    else:
        report("ablating every unit")
    study = measure(opened, subtasks, settings, folder, workers=workers)
    effects = study.effects
    if study.compared is None:
        report("comparing attribution with the exact effects")
        _compare(opened, subtasks, effects, settings, folder)
    report("removing the neurons that each subtask needs most, beside random ones")
    neurons = effects.units.kinds.count("neuron")
    sizes = [n for n in plan.sizes if n <= neurons]
    config = Removing(sizes, ("neuron",), draws=plan.draws)
    remove(opened, effects, folder / "removal", subtasks=subtasks, config=config)
    report("tracing the circuit of each subtask, on other text than chose its units")
    _trace(opened, subtasks, effects, plan, folder / "circuits", report)
    report("drawing pictures, writing the summary and the report")
    return write_report(folder)


def _first_numbers(effects: Effects, report: Callable[[str], None]) -> None:
    """Say what each subtask needs most, as far as that is known."""
    for name in effects.subtasks:
        mean, loss = effects.mean(name), effects.baseline[:, effects.subtasks.index(name)].mean()
        order = np.argsort(-np.where(np.isfinite(mean), mean, -np.inf), kind="stable")[:3]
        said = ", ".join(f"{effects.units.names[u]} ({'' if effects.exact[u] else '~'}{mean[u]:.2f})" for u in order)
        report(f"  {name}: loss {loss:.2f}; needs most: {said}")


def _compare(opened: Opened, subtasks: dict[str, Subtask], effects: Effects, settings: Settings, folder: Path) -> None:
    """Estimate the effects that are known exactly."""
    estimate = attribution_effects(experiment_of(opened, subtasks, settings), curvature=settings.curvature)
    own = {name: effects.made[name] for name in ("drawn", "request", "name")}
    estimate = replace(estimate, made={**estimate.made, **own})
    everything = np.asarray(effects.measured)
    found = calibrate(estimate, effects, drawn=everything)
    if not (folder / "estimate").is_dir():
        store.save(estimate, folder / "estimate")
    save_compared(folder, Compared(estimate, effects, everything, found))


def _trace(
    opened: Opened,
    subtasks: dict[str, Subtask],
    effects: Effects,
    plan: Plan,
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """Trace the circuits, and collect what excites their units most."""
    names: dict[str, None] = {}
    for name in effects.subtasks:
        try:
            found = trace_study(
                opened, effects, folder, plan.circuit._replace(subtasks=(name,)), plan.tracing, drawn_from=subtasks
            )
        except ValueError as error:  # such as a model that has no skill at all: the rest can still be told
            report(f"no circuit of {name}: {error}")
            continue
        names |= dict.fromkeys(found[name])
    experiment = experiment_of(opened, subtasks, plan.settings, units=effects.units)
    write_shown(folder, experiment, list(names), opened.tokenizer)
