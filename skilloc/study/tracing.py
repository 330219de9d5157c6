"""Circuits for a study: units chosen by its effects, everything stated on another split, one file per subtask."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc import store
from skilloc.circuits import graph as g
from skilloc.circuits.claims import claim_edges
from skilloc.circuits.faithfulness import enough, faithfulness
from skilloc.circuits.overlap import consensus, mask_of
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.masks import Mask, top
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.store.progress import progress
from skilloc.study.able import Ability
from skilloc.study.elsewhere import PATIENCE, experiment_again, made_once, shared_by_items
from skilloc.study.folder import check_apart
from skilloc.study.learning import learned_circuits
from skilloc.study.redrawn import drawn_of, held_out, redraw
from skilloc.sweep import Order, Pool, done_items
from skilloc.tasks import Subtask
from skilloc.tasks.parity import input_names

TOP = 50
"""Units of a circuit, where neither a number nor a share is asked for."""


class Choice(NamedTuple):
    """How the units of a circuit are chosen: so many, or enough to keep a share; by their effects, or learned together.

    Attributes:
        n: number of units.
        share: of the skill that the circuit is to keep.
        by: what ranked the units, in words, where that is not an exact effect of each; `graph.GATES` for circuits
            that are learned (see `circuits.gates`), whatever the effects say.
        subtasks: whose circuits are traced; all that were measured if not given.
        reference: another reference than that of the effects.
        agreement: of several studies, the share of them that a unit or edge must be in.
    """

    n: int | None = None
    share: float | None = None
    by: str = ""
    subtasks: Sequence[str] = ()
    reference: str | None = None
    agreement: float = 0.75

    def record(self) -> dict[str, int | float | str | None]:
        """Return what was chosen, in words and numbers."""
        return {"n": self.n, "share": self.share, **({"by": self.by} if self.by else {})}

    def __str__(self) -> str:
        chosen = f"{'' if self.by == g.GATES else 'top '}{self.n}" if self.share is None else f"share {self.share:g}"
        return f"{chosen} by {self.by}" if self.by else chosen


@store.working("folder", inside=True)
def trace_study(
    opened: Opened,
    effects: Effects,
    folder: Path,
    choice: Choice,
    config: Tracing,
    *,
    drawn_from: Mapping[str, Subtask] | None = None,
    workers: int | Pool = 1,
) -> dict[str, nx.DiGraph]:
    """Trace the circuits of a study's subtasks; those that the folder holds already are read.

    Units, and the size that keeps a share, are chosen on the study's own examples; circuits are learned on the train
    split. Everything that a circuit says is
    measured on as many examples of another split: `selection`, or `report` for a study of the selection split.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        folder: gets NAME.json and NAME.graphml for each subtask.
        choice: how units are chosen.
        config: how circuits are measured.
        drawn_from: what the examples are drawn from; read again from the record if not given.
        workers: this process, or others (`Pool`), a subtask each; what one way has traced, another goes on with.

    Raises:
        ValueError: if the model or the texts are not those of the effects, a subtask is unknown, the choice is out of
            range, or the folder holds another circuit of a subtask.
    """
    check_choice(effects, choice)
    check_apart(folder)
    chosen_on = redraw(opened, effects, subtasks=drawn_from, reference=choice.reference)
    stated_on = held_out(chosen_on)
    names = tuple(choice.subtasks or effects.subtasks)
    asked = {name: _request(effects, stated_on, choice, config, subtask=name) for name in names}
    # All that is there is read first, so that another choice is refused before anything is measured.
    found = {name: _there(g.file_of(folder, name), request) for name, request in asked.items()}
    left = {
        name: _Left(name, opened.name, stated_on.split, asked[name], effects.mean(name), unable(effects, name))
        for name, there in found.items()
        if there is None
    }
    if isinstance(workers, Pool) and workers.elsewhere and left:
        _trace_elsewhere(shared_by_items(opened, drawn_of(effects), chosen_on), left, config, folder, workers)
    for name, one in left.items():
        path = g.file_of(folder, name)
        found[name] = _there(path, one.request) or _trace(chosen_on, stated_on, one, choice, config, path)
    for name, graph in found.items():
        g.save_graphml(graph, g.file_of(folder, name).with_suffix(".graphml"))
    return found


class _Left(NamedTuple):
    """A circuit that is not there yet: of which subtask, model and split, on which request, from which ranking; and,
    where the model cannot do the subtask, how often it is right."""

    subtask: str
    model: str
    split: str
    request: Mapping[str, Any]
    ranking: Float[np.ndarray, " unit"]
    unable: str = ""


def unable(effects: Effects, subtask: str) -> str:
    """Say how often the model is right on what it cannot do; nothing of what it can, and where that is not known."""
    made: Mapping[str, Any] = effects.made
    shares = [dict(made.get(what, {})).get(subtask) for what in ("accuracy", "chance", "commonest")]
    count = made.get("drawn", {}).get("sequences")
    known = [float(one) for one in shares if one is not None]
    if count is None or len(known) < len(shares):
        return ""
    accuracy, chance, commonest = known
    if Ability(accuracy, float("nan"), chance, count, commonest).able:
        return ""
    luck = max(chance, commonest)
    right = round(accuracy * count)
    return f"right on {right} of {count} examples, where knowing nothing is right on a share of {luck:.2g}"


def _request(
    effects: Effects, stated_on: Experiment, choice: Choice, config: Tracing, *, subtask: str
) -> dict[str, Any]:
    return {
        "effects": store.key(dict(effects.made)),
        "subtask": subtask,
        "choice": choice.record(),
        "config": config.record(),
        "tokens": dict(stated_on.folded.digests),
        "reference": stated_on.held.record(),
        "loss": stated_on.metric.record(),
        "at": stated_on.at,
    }


def _trace_elsewhere(shared: str, left: Mapping[str, _Left], config: Tracing, folder: Path, pool: Pool) -> None:
    """Have circuits traced by the workers of a pool, a subtask each."""
    own = config.record()
    items = {
        g.file_of(folder, name).name: {**one._asdict(), "ranking": one.ranking.tolist(), "config": own}
        for name, one in left.items()
    }
    order = Order(
        f"{__name__}:trace_item", shared, folder, json.loads(shared)["home"], found=Path.is_file, patience=PATIENCE
    )
    for _ in progress(done_items(items, order, pool), "tracing", total=len(items)):
        pass


def trace_item(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Trace the circuit of a subtask in another process, and keep it."""
    chosen_on = made_once(f"circuits {shared}", lambda: experiment_again(shared))
    own, chosen = dict(item["config"]), item["request"]["choice"]
    config = Tracing(**{**own, "sizes": None if own["sizes"] is None else tuple(own["sizes"])})
    choice = Choice(chosen["n"], chosen["share"], chosen.get("by", ""))
    one = _Left(
        item["subtask"], item["model"], item["split"], item["request"], np.array(item["ranking"]), item["unable"]
    )
    _trace(chosen_on, held_out(chosen_on), one, choice, config, g.file_of(out, one.subtask))


def check_choice(effects: Effects, choice: Choice) -> None:
    """Refuse what cannot be traced, by what the effects say: before a model is read.

    Raises:
        ValueError: if a subtask is unknown, or there are not so many units.
    """
    for name in choice.subtasks:
        effects.of(name)
        if choice.subtasks.count(name) > 1:
            raise WrongValue(f'`subtasks` has "{name}" twice; name each once')
    there = len(effects.units) if choice.by == g.GATES else int(effects.measured.sum())
    if choice.n is not None and choice.n > there:
        what = "units" if choice.by == g.GATES else "measured units"
        raise WrongValue(f"`count` asks for {choice.n} of {there} {what}; choose 1 to {there}")


@store.working("folder", inside=True)
def trace_runs(
    opened: Opened,
    runs: Sequence[Effects],
    folder: Path,
    choice: Choice,
    config: Tracing,
    *,
    workers: int | Pool = 1,
) -> dict[str, nx.DiGraph]:
    """Trace the circuits of several studies of one model (other examples, other references), and their consensus.

    What the consensus keeps is measured as each study asks, on other examples of its own, at its own reference. Stated,
    and tested edge by edge, is the study in which it keeps least; what it keeps in each is in the graph too.

    Args:
        opened: the model.
        runs: the effects of each study.
        folder: gets the consensus of each subtask, and each run's circuits in `run_0`, `run_1`, ...
        choice: how units are chosen in each run, and how many runs must agree on one.
        config: how circuits are measured.
        workers: as of `trace_study`.

    Raises:
        ValueError: as `trace_study`, if a study comes twice, or if no unit is in enough runs.
    """
    keys = [store.key(dict(effects.made)) for effects in runs]
    if len(set(keys)) < len(keys):
        raise WrongValue("a study comes twice, and agrees with itself; pass studies of other examples or references")
    check_apart(folder)
    names = tuple(choice.subtasks) or runs[0].subtasks
    own = choice._replace(subtasks=names)
    traced = [
        trace_study(opened, effects, folder / f"run_{i}", own, config, workers=workers)
        for i, effects in enumerate(runs)
    ]
    stated_on = [held_out(redraw(opened, effects)) for effects in runs]
    found = {}
    for name in names:
        path = g.file_of(folder, name)
        request = {"runs": keys, "subtask": name, "choice": own.record(), "agreement": own.agreement}
        request |= {"config": config.record(), "stated": [one.held.record() for one in stated_on]}
        if (there := _there(path, request)) is not None:
            found[name] = there
            continue
        agreed = consensus([run[name] for run in traced], share=choice.agreement)
        circuit = mask_of(agreed, runs[0])
        if not circuit.keep.any():
            raise WrongValue(
                f"no unit of {name} is in {choice.agreement:g} of the runs; ask for less agreement, or larger circuits"
            )
        curves = [faithfulness(one, [circuit], subtask=name, draws=config.draws, seed=config.seed) for one in stated_on]
        each = [curve.faithfulness(0) for curve in curves]
        least = int(np.argmin([one.value for one in each]))
        agreed.graph[g.FAITHFULNESS] = curves[least].records()
        agreed.graph[g.EACH] = [
            {"run": i, "reference": stated_on[i].held.name, **{end: g.number(float(part)) for end, part in
             zip(("value", "low", "high"), one[:3], strict=True)}}
            for i, one in enumerate(each)
        ]  # fmt: skip
        where = stated_on[least]
        claim_edges(where, circuit, agreed, draws=config.draws, seed=config.seed, inputs=_inputs(where))
        if known := next(filter(None, (unable(one, name) for one in runs)), ""):
            agreed.graph[g.UNABLE] = known
        agreed.graph[g.MADE] = {**agreed.graph.get(g.MADE, {}), "request": store.key(request)}
        g.save(agreed, path)
        found[name] = g.load(path)
    for name, graph in found.items():
        g.save_graphml(graph, g.file_of(folder, name).with_suffix(".graphml"))
    return found


def _there(path: Path, request: Mapping[str, Any]) -> nx.DiGraph | None:
    if not path.exists():
        return None
    found = g.load(path)
    if found.graph[g.MADE].get("request") != store.key(request):
        raise WrongValue(
            f'"{path}" holds another circuit ({found.graph[g.CHOSEN]}, reference {found.graph[g.REFERENCE]}); choose '
            "another folder for `out`"
        )
    return found


def _trace(
    chosen_on: Experiment, stated_on: Experiment, left: _Left, choice: Choice, config: Tracing, path: Path
) -> nx.DiGraph:
    """Trace a circuit, and keep it."""
    subtask = left.subtask
    size = choice.n if choice.n is not None else TOP
    others: Sequence[Mask] | Float[np.ndarray, " unit"] = left.ranking
    if choice.by == g.GATES:
        wanted = None if choice.share is not None else size
        circuit, others = learned_circuits(
            chosen_on, subtask=subtask, size=wanted, share=choice.share, others=config.sizes or (), seed=config.seed
        )
    else:
        if choice.share is not None:
            size = enough(chosen_on, left.ranking, choice.share, subtask=subtask)
        circuit = Mask(stated_on.units, top(left.ranking, size))
    named = replace(config, inputs=_inputs(stated_on))
    found = trace_circuit(stated_on, circuit, named, subtask=subtask, chosen=str(choice), ranking=others)
    found.graph[g.MODEL]["name"] = left.model
    about = {"split": left.split, "request": store.key(left.request), "effects": left.request["effects"]}
    found.graph[g.MADE] |= about
    if left.unable:
        found.graph[g.UNABLE] = left.unable
    g.save(found, path)
    # As it is read, so that what is written from it is the same for circuits that were there.
    return g.load(path)


def _inputs(experiment: Experiment) -> tuple[str, ...] | None:
    """Return the names of the bits, where the inputs are the bits of a parity task."""
    first = next(iter(experiment.subtasks.values()))
    made: dict[str, Any] = dict(getattr(first, "made", None) or {})
    if experiment.face.chain is None or "sets" not in made:
        return None
    return input_names(made["n"], len(made["sets"]))
