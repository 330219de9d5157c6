"""A circuit as a networkx `DiGraph`, and its files. These names are the whole format; the constants hold them.

Graph attributes

    version        of this format
    subtask        the subtask that the circuit was chosen for
    subtasks       all subtasks that effects were measured on, in order
    model          {"name", "digest"}
    reference      name of what ablated units are held at: "zero", "mean", "flat mean", "resample", "paired" or "given"
    loss           {"name", "unit"} of what was measured; all losses, effects and edges are in this unit. Files without
                   it are read as {"name": "cross_entropy", "unit": "nats"}, and a "mean" in them as a "flat mean"
    chosen         how the units were chosen: "top 50", "share 0.9", "mask" or "consensus 0.5"
    baseline       {subtask: loss of the whole model}
    floor          {subtask: loss with every unit at its reference}
    faithfulness   where it was measured: a list with one record per size, rising,
                   {"size", "faithfulness", "low", "high", "random", "random_low", "random_high", "completeness",
                   "completeness_low", "completeness_high", "completeness_random", "blind", ...}; see `faithfulness`
    edges_keep     where that was measured: a list of such records for sets of the circuit's edges, all other paths at
                   the reference: those it is drawn with, and all; "size" counts edges (see `claims`)
    untested       else, where edges were measured: why these were not tested, in words
    drawn          of wires: {"count", "on"}: how many are drawn, the ones with the largest scores, and the examples, in
                   words, that they were chosen on (see `claims`)
    unable         where the model cannot do the subtask: how often it is right, in words
    made           what made it: settings, tokens, versions

Nodes. The key is the printed name of a unit (`L3N17`, `L2H1`), or of an input or output: `control 0`, `bit 5` (or
`input 5`), `logit 1` of an MLP; `tokens`, `logits` of a language model; `outputs` of a described module.

    kind           "input", "output", or the kind of the unit: "neuron", "head", "layer", "residual", or what a user
                   declares; "mlp" for a whole MLP (`patching` only)
    layer          of the model; -1 for inputs and for units of no layer, the number of layers for outputs
    column         place in forward order, for a layered drawing: inputs 0, then one per bank that the model has units
                   in (a transformer's heads of a layer come before its neurons), outputs last
    hook           the bank that the unit belongs to, which is where it lives; of inputs and outputs, the hook or ""
    position       which of the bank's units it is; of inputs and outputs, which bit or logit
    effect         {subtask: {"value", "low", "high"}}: loss without it minus loss with it. {} for outputs
    adds           where it was measured, {subtask: {"value", "low", "high"}}: the loss of the circuit without this unit
                   minus the loss of the circuit, both with all other units at their reference
    share          of a consensus circuit: fraction of the runs whose circuit has this unit

Edges go forward, from a unit to a later one that its effect passes through.

    effect         {subtask: {"value", "low", "high"}}: how much the edge lowers the loss (see `edges`); of all but
                   wires, the change of the target's activation when the source is held at its reference, times the
                   gradient of the loss there. Positive: through the target, the source lowers the loss
    measured       "wires": what the edge itself adds to what its target reads, in the circuit alone, by integrated
                   gradients from no edges to all of the circuit's, which add up to what all of them lower the loss by;
                   "total": along all paths of the whole model; "direct": all other paths frozen; "closed form": direct,
                   exact from the weights of an MLP; "attribution": estimated by transformer-lens
    score          of wires: {subtask: value}, the same on the examples that drawn edges are chosen on; edges are drawn
                   by it, largest first, and others by |effect| (see `claims`)
    weight         of an MLP: the weight from source to target

`low` and `high` are the 95 % interval over folds (over runs, for a consensus); None where there is none. The numbers
have six significant digits. The same circuit always gives the same bytes.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import networkx as nx
import numpy as np
from jaxtyping import Float

from skilloc import store
from skilloc.locality.uncertainty import mean_over_folds
from skilloc.mistakes import LONGEST_FILE, WrongValue

FORMAT = 1
"""Version of the format."""

VERSION, SUBTASK, SUBTASKS, MODEL, REFERENCE = "version", "subtask", "subtasks", "model", "reference"
CHOSEN, BASELINE, FLOOR, FAITHFULNESS, MADE = "chosen", "baseline", "floor", "faithfulness", "made"
EDGES_KEEP, UNTESTED = "edges_keep", "untested"
DRAWN, DRAWN_COUNT, DRAWN_ON = "drawn", "count", "on"
EACH, UNABLE = "each", "unable"
LOSS, LOSS_NAME, LOSS_UNIT = "loss", "name", "unit"
KIND, LAYER, COLUMN, HOOK, POSITION, ADDS, SHARE = "kind", "layer", "column", "hook", "position", "adds", "share"
EFFECT, MEASURED, WEIGHT, SCORE = "effect", "measured", "weight", "score"
NEURON, HEAD, INPUT, OUTPUT, WHOLE_MLP = "neuron", "head", "input", "output", "mlp"
WIRES, TOTAL, DIRECT = "wires", "total", "direct"
CLOSED_FORM, ATTRIBUTION = "closed form", "attribution"

GATES = "learned gates"
"""What `chosen` ends with where gates were learned: then circuits of other sizes are others, and not parts of this."""

EXAMPLES, SHOWN = "examples.json", "shown.json"
"""Files beside the circuits: what excites each unit most, and what units do on prompts (`study.on_prompts`)."""

TAKEN = ("circuit", "circuits", "examples", "shown")
"""What else lies beside the circuits: the page, all of them in one picture, the top examples, and what units do on
prompts."""

CIRCUIT, NO_CIRCUIT = "circuit", "units that matter most"

Record = dict[str, Any]
DIGITS = 6


def number(value: float) -> float | None:
    """Return a number with six significant digits; None for NaN and infinity, which JSON has not."""
    return float(f"{value:.{DIGITS - 1}e}") if math.isfinite(value) else None


def interval_record(per_fold: Float[np.ndarray, " fold"]) -> Record:
    """Return the mean over folds with its 95 % interval; below 2 folds there is none."""
    if len(per_fold) < 2:
        return {"value": number(float(per_fold.mean())), "low": None, "high": None}
    found = mean_over_folds(per_fold)
    return {name: number(float(getattr(found, name))) for name in ("value", "low", "high")}


def effect_record(per_fold: Float[np.ndarray, "fold subtask"], subtasks: tuple[str, ...]) -> Record:
    """Return `{subtask: {"value", "low", "high"}}`."""
    return {name: interval_record(per_fold[:, s]) for s, name in enumerate(subtasks)}


def loss_record(name: str = "cross_entropy", unit: str = "nats") -> Record:
    """Return the record of a loss; of the one that files of old are about, if nothing is given."""
    return {LOSS_NAME: name, LOSS_UNIT: unit}


def unit_of(graph: nx.DiGraph) -> str:
    """Return the unit of a circuit's losses, effects and edges."""
    return str(graph.graph.get(LOSS, loss_record())[LOSS_UNIT])


def units_in(graph: nx.DiGraph) -> list[str]:
    """Return the names of the units of a circuit, in forward order, without inputs and outputs."""
    return [name for name in in_order(graph) if graph.nodes[name][KIND] not in (INPUT, OUTPUT)]


def called(graph: nx.DiGraph) -> str:
    """Return what the units may be called: a circuit only where they keep more of the skill than random units of their
    number and layers do (95 % of single ones), and, where that is known, than they themselves do whatever the example
    is (`blind`), beyond both intervals, of what the model can do; and otherwise units that matter most."""
    return NO_CIRCUIT if why_none(graph) else CIRCUIT


def why_none(graph: nx.DiGraph) -> str:
    """Say in few words why units are not called a circuit; nothing of a circuit."""
    own = _own(graph)
    low, high, blind = own.get("low"), own.get("random_high"), own.get("blind_high")
    kept, random = own.get("faithfulness"), own.get("random")
    if low is None or high is None:
        return "not compared with random ones"
    if kept is not None and random is not None and kept <= random:
        return "no better than random ones"
    if blind is not None and low <= blind:
        return "not told from blind ones"
    if low <= high:
        return "not told from random ones"
    return "of what the model cannot do" if UNABLE in graph.graph else ""


def _own(graph: nx.DiGraph) -> Record:
    """Return what the units themselves keep, where that was measured."""
    size = len(units_in(graph))
    found: Record = next((one for one in graph.graph.get(FAITHFULNESS) or [] if one["size"] == size), {})
    return found


def in_order(graph: nx.DiGraph) -> list[str]:
    """Return all nodes: by column, then by position."""
    nodes = graph.nodes
    return sorted(nodes, key=lambda name: (nodes[name][COLUMN], nodes[name].get(POSITION) or 0, name))


def to_json(graph: nx.DiGraph) -> str:
    """Return a circuit as node-link JSON, nodes and edges in forward order: the same circuit, the same text."""
    order = in_order(graph)
    place = {name: i for i, name in enumerate(order)}
    edges = sorted(graph.edges, key=lambda ends: (place[ends[0]], place[ends[1]]))
    found = {
        VERSION: graph.graph.get(VERSION, FORMAT),
        "directed": True,
        "multigraph": False,
        "graph": {name: value for name, value in graph.graph.items() if name != VERSION},
        "nodes": [{"id": name, **graph.nodes[name]} for name in order],
        "edges": [{"source": a, "target": b, **graph.edges[a, b]} for a, b in edges],
    }
    return json.dumps(store.sealed(found), sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def from_json(text: str) -> nx.DiGraph:
    """Read what `to_json` wrote.

    Raises:
        ValueError: if it is no circuit, or of a later version of the format.
    """
    try:
        found = json.loads(text)
        version = found[VERSION]
        if version != FORMAT:
            raise WrongValue(
                f"`text` is a circuit of version {version}, and this is skilloc for {FORMAT}; update skilloc"
            )
        graph = nx.node_link_graph(store.unsealed(found, "the circuit"), edges="edges")
    except (json.JSONDecodeError, LookupError, TypeError, AttributeError, nx.NetworkXError) as error:
        raise WrongValue("`text` is no circuit; pass what `skilloc circuit` wrote") from error
    graph.graph[VERSION] = version
    if LOSS not in graph.graph:
        graph.graph[LOSS] = loss_record()
        if REFERENCE in graph.graph:
            names = str(graph.graph[REFERENCE]).split(" and ")
            graph.graph[REFERENCE] = " and ".join("flat mean" if name == "mean" else name for name in names)
    return graph


def save(graph: nx.DiGraph, path: Path | str) -> None:
    """Write a circuit as node-link JSON, whole or not at all."""
    store.write_file(path, to_json(graph))


def load(path: Path | str) -> nx.DiGraph:
    """Read a circuit that `save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no circuit.
    """
    try:
        return from_json(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WrongValue(f"{path}: {error}") from error


def file_of(folder: Path, subtask: str) -> Path:
    """Return where the circuit of a subtask lies; a name that its file cannot have is quoted as in a web address."""
    quoted = quote(subtask, safe=" ()+,=")
    if quoted.lower() in TAKEN or quoted.startswith("."):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    if len(quoted) > LONGEST_FILE:
        quoted = f"{quoted[: LONGEST_FILE - 17]}~{hashlib.sha256(subtask.encode()).hexdigest()[:16]}"
    return folder / f"{quoted}.json"


def save_graphml(graph: nx.DiGraph, path: Path | str) -> None:
    """Write a circuit as GraphML, for Gephi, yEd, Cytoscape, igraph and others.

    GraphML has flat attributes only, so an effect becomes `effect python`, `effect python low`, `effect python high`,
    and a score `score python`; what is unknown is left out; lists and mappings of the graph are JSON.
    """
    flat = nx.DiGraph()
    for name, value in sorted(graph.graph.items()):
        flat.graph[name] = value if isinstance(value, str | int | float) else json.dumps(value, sort_keys=True)
    order = in_order(graph)
    place = {name: i for i, name in enumerate(order)}
    for name in order:
        flat.add_node(name, **_flat(graph.nodes[name]))
    for a, b in sorted(graph.edges, key=lambda ends: (place[ends[0]], place[ends[1]])):
        flat.add_edge(a, b, **_flat(graph.edges[a, b]))
    store.write_file(path, store.with_seal("\n".join(nx.generate_graphml(flat))))


def _flat(attributes: Mapping[str, Any]) -> Record:
    found: Record = {}
    for name, value in sorted(attributes.items()):
        if isinstance(value, Mapping):
            for subtask, one in value.items():
                for end, part in (one if isinstance(one, Mapping) else {"value": one}).items():
                    key = f"{name} {subtask}" if end == "value" else f"{name} {subtask} {end}"
                    if part is not None:
                        found[key] = part
        elif value is not None:
            found[name] = value
    return found
