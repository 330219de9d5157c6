"""Circuits for a study: units chosen by its effects, everything stated on another split, one file per subtask."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import networkx as nx

from skilloc import store
from skilloc.circuits import graph as g
from skilloc.circuits.faithfulness import enough, faithfulness
from skilloc.circuits.overlap import consensus, overlap
from skilloc.circuits.trace import Tracing, trace_circuit
from skilloc.effects import Effects
from skilloc.intervene import Reference
from skilloc.masks import Mask, top
from skilloc.models.language import Opened
from skilloc.models.mlp import MLP
from skilloc.study.draws import draw, recalled, redraw, reference_of
from skilloc.study.report import Record
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.parity import input_names

TOP = 50
"""Units of a circuit, where neither a number nor a share is asked for."""

TAKEN = ("circuit", "circuits", "examples")
"""What else lies beside the circuits: the page, all of them in one picture, and the top examples."""


class Choice(NamedTuple):
    """How the units of a circuit are chosen: the n with the largest effects, or enough of them to keep a share."""

    n: int | None = None
    share: float | None = None

    def record(self) -> Record:
        """Return what was chosen, in words and numbers."""
        return {"n": self.n, "share": self.share}

    def __str__(self) -> str:
        return f"top {self.n}" if self.share is None else f"share {self.share:g}"


class Held(NamedTuple):
    """Examples that did not choose the units, from a split, with the reference for them."""

    batches: Mapping[str, Examples]
    reference: Reference
    split: str


def trace_study(
    opened: Opened,
    effects: Effects,
    folder: Path,
    choice: Choice,
    config: Tracing,
    *,
    subtasks: Sequence[str] = (),
    drawn_from: Mapping[str, Subtask] | None = None,
    reference: str | None = None,
) -> dict[str, nx.DiGraph]:
    """Trace the circuits of a study's subtasks; those that the folder holds already are read.

    Units, and the size that keeps a share, are chosen on the study's own examples. Everything that a circuit says is
    measured on as many examples of another split: `selection`, or `report` for a study of the selection split.

    Args:
        opened: the model that the effects were measured on.
        effects: effects that a study measured.
        folder: gets NAME.json and NAME.graphml for each subtask.
        choice: how units are chosen.
        config: how circuits are measured; its `folds` are those of the effects.
        subtasks: which subtasks; all if not given.
        drawn_from: what the examples are drawn from; read again from the record if not given.
        reference: another reference than that of the effects.

    Raises:
        ValueError: if the model or the texts are not those of the effects, a subtask is unknown, the choice is out of
            range, or the folder holds another circuit of a subtask.
    """
    for name in subtasks:
        effects.of(name)
    sources, held = _held_out(opened, effects, drawn_from, reference)
    config = replace(config, folds=len(effects.values))
    found = {}
    for name in subtasks or effects.subtasks:
        request = {
            "effects": store.key(dict(effects.made)),
            "subtask": name,
            "choice": choice.record(),
            "config": asdict(config),
            "tokens": {part: batch.digest for part, batch in held.batches.items()},
            "reference": held.reference.record(),
        }
        path = file_of(folder, name)
        there = _there(path, request)
        if there is None:
            there = _trace(opened, effects, name, choice, config, held, sources, reference)
            there.graph[g.MADE] |= {"split": held.split, "request": store.key(request)}
            g.save(there, path)
        g.save_graphml(there, path.with_suffix(".graphml"))
        found[name] = there
    return found


def trace_runs(
    opened: Opened,
    runs: Sequence[Effects],
    folder: Path,
    choice: Choice,
    config: Tracing,
    *,
    subtasks: Sequence[str] = (),
    share: float = 0.5,
) -> dict[str, nx.DiGraph]:
    """Trace the circuits of several studies of one model (other examples, other references), and their consensus.

    Args:
        opened: the model.
        runs: the effects of each study.
        folder: gets the consensus of each subtask, and each run's circuits in `run_0`, `run_1`, ...
        choice: how units are chosen in each run.
        config: how circuits are measured.
        subtasks: which subtasks; all that the first run has, if not given.
        share: of the runs that a unit or edge must be in.

    Raises:
        ValueError: as `trace_study`, or if no unit is in enough runs.
    """
    names = tuple(subtasks) or runs[0].subtasks
    traced = [
        trace_study(opened, effects, folder / f"run_{i}", choice, config, subtasks=names)
        for i, effects in enumerate(runs)
    ]
    _, held = _held_out(opened, runs[0], None, None)
    found = {}
    for name in names:
        agreed = consensus([run[name] for run in traced], share=share)
        circuit = mask_of(agreed, runs[0])
        if not circuit.keep.any():
            raise ValueError(
                f"no unit of {name} is in {share:g} of the runs; ask for less agreement, or larger circuits"
            )
        curve = faithfulness(
            opened.model, held.batches, [circuit], subtask=name, reference=held.reference, folds=len(runs[0].values),
            draws=config.draws, seed=config.seed,
        )  # fmt: skip
        agreed.graph[g.FAITHFULNESS] = curve.records()
        g.save(agreed, file_of(folder, name))
        g.save_graphml(agreed, file_of(folder, name).with_suffix(".graphml"))
        found[name] = agreed
    return found


def file_of(folder: Path, subtask: str) -> Path:
    """Return where the circuit of a subtask lies; a name that its file cannot have is quoted as in a web address."""
    quoted = quote(subtask, safe=" ()+,=")
    if quoted.lower() in TAKEN:
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    return folder / f"{quoted}.json"


def mask_of(graph: nx.DiGraph, effects: Effects) -> Mask:
    """Return the units of a circuit as a mask."""
    return Mask(effects.units, effects.units.named(g.units_in(graph)))


def circuits_record(circuits: Mapping[str, nx.DiGraph], effects: Effects) -> Record:
    """Return what the circuits say, as plain records: per subtask, and what they share."""
    found: Record = {"subtasks": {name: circuit_record(graph) for name, graph in circuits.items()}}
    if len(circuits) > 1:
        shared = overlap({name: mask_of(graph, effects) for name, graph in circuits.items()})
        found["overlap"] = {
            "names": list(shared.names),
            **{part: getattr(shared, part).tolist() for part in shared._fields if part != "names"},
        }
    return found


def circuit_record(graph: nx.DiGraph, *, n: int = 10) -> Record:
    """Return what one circuit says: its size, faithfulness, strongest units and edges."""
    subtask = graph.graph[g.SUBTASK]
    members = g.units_in(graph)
    size = len(members)
    curve = graph.graph.get(g.FAITHFULNESS, [])

    def strongest(entries: list[tuple[str, Record]]) -> list[Record]:
        entries = sorted(entries, key=lambda entry: -abs(entry[1][g.EFFECT][subtask]["value"] or 0))
        return [
            {
                "name": name,
                **{part: one[part][subtask] for part in (g.EFFECT, g.ADDS) if subtask in one.get(part, {})},
            }
            for name, one in entries[:n]
        ]

    return {
        "chosen": graph.graph[g.CHOSEN],
        "size": size,
        "edges": graph.number_of_edges(),
        "kinds": {kind: sum(graph.nodes[name][g.KIND] == kind for name in members) for kind in (g.NEURON, g.HEAD)},
        "circuit": next((record for record in curve if record["size"] == size), None),
        "curve": curve,
        "strongest_units": strongest([(name, graph.nodes[name]) for name in members]),
        "strongest_edges": strongest([(f"{a} → {b}", graph.edges[a, b]) for a, b in graph.edges]),
    }


def _held_out(
    opened: Opened, effects: Effects, drawn_from: Mapping[str, Subtask] | None, reference: str | None
) -> tuple[Mapping[str, Subtask], Held]:
    sources, settings = recalled(opened, effects, subtasks=drawn_from, reference=reference)
    split = "report" if settings.split == "selection" else "selection"
    batches = draw(sources, replace(settings, split=split))
    # With the settings of the study: a mean stays the one that units were chosen with.
    return sources, Held(batches, reference_of(opened, sources, batches, effects.units, settings), split)


def _there(path: Path, request: Record) -> nx.DiGraph | None:
    if not path.exists():
        return None
    found = g.load(path)
    if found.graph[g.MADE].get("request") != store.key(request):
        raise ValueError(
            f'"{path}" holds another circuit ({found.graph[g.CHOSEN]}, reference {found.graph[g.REFERENCE]}); choose '
            "another folder for `out`, or delete that one"
        )
    return found


def _trace(
    opened: Opened,
    effects: Effects,
    name: str,
    choice: Choice,
    config: Tracing,
    held: Held,
    sources: Mapping[str, Subtask],
    reference: str | None,
) -> nx.DiGraph:
    ranking = effects.mean(name)
    size = choice.n if choice.n is not None else TOP
    if choice.share is not None:
        chosen_on, its_reference = redraw(opened, effects, subtasks=sources, reference=reference)
        size = enough(
            opened.model, chosen_on, effects.units, ranking, choice.share, subtask=name, reference=its_reference
        )
    traced = trace_circuit(
        opened.model,
        held.batches,
        Mask(effects.units, top(ranking, size)),
        config,
        subtask=name,
        reference=held.reference,
        chosen=str(choice),
        ranking=ranking,
        inputs=_inputs(opened.model, sources),
    )
    traced.graph[g.MODEL]["name"] = opened.name
    return traced


def _inputs(model: Any, sources: Mapping[str, Subtask]) -> tuple[str, ...] | None:
    made: Record = dict(next(iter(sources.values())).made or {})
    if not isinstance(model, MLP) or "sets" not in made:
        return None
    return input_names(made["n"], len(made["sets"]))
