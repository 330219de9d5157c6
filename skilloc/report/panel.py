"""The interactive circuit: a canvas with a panel and sliders, and beside it what is readable without script."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from skilloc import plots
from skilloc.circuits import graph as names
from skilloc.circuits.claims import few
from skilloc.circuits.diagram import diagram_of
from skilloc.mistakes import WrongValue
from skilloc.plots.diagram import place
from skilloc.report.bounds import CIRCUITS
from skilloc.report.circuits import circuit_words, circuits_section, drawn_words, edge_words
from skilloc.report.circuits_found import circuit_found, circuits_found
from skilloc.report.document import body_of, document, escape, rounded
from skilloc.report.section import Cell, Section, Table
from skilloc.report.still import stability_of, still
from skilloc.report.words import explained

LISTED = 100
"""Units and edges in the tables; the picture with script shows all."""

Examples = Mapping[str, Sequence[Mapping[str, Any]]]

HEADS, LOOKED = 8, 3
"""Heads in the table of prompts, and tokens that each of them attends to most."""

_STREAM = ", as the residual stream passes them"

_CONTROLS = """<section id="circuit" hidden>
<h3 id="called"></h3>
<p id="said"></p>
<form class="controls" aria-label="what the picture shows">
<label>circuit <select id="which"></select></label>
<label>effects on <select id="subtask"></select></label>
<label>find <input id="search" type="search" list="units" placeholder="L3N17" autocomplete="off"></label>
<datalist id="units"></datalist>
<label>units <input id="nodes" type="range" min="1" step="1"> <output id="nodes-said"></output></label>
<label>edges <input id="edges" type="range" min="0" max="1000" step="1"> <output id="edges-said"></output></label>
</form>
<div class="stage">
<div class="picture">
<canvas id="canvas" tabindex="0" role="img" aria-describedby="keys"></canvas>
<div id="tip" role="status" hidden></div>
<div class="buttons"><button id="closer" type="button" aria-label="zoom in">+</button>
<button id="farther" type="button" aria-label="zoom out">−</button>
<button id="fit" type="button">fit</button></div>
</div>
<aside>
<div class="faithful"><canvas id="curve" role="img" aria-labelledby="faithfulness"></canvas>
<p id="faithfulness" aria-live="polite"></p>
<p class="note">The share of the skill that these units keep when all others are held at their reference: 1 all of it,
0 none, below 0 worse than none.</p></div>
<div id="panel" aria-live="polite"></div>
</aside>
</div>
<p id="legend" class="legend"></p>
<div id="prompts" aria-label="prompts to show activations on"></div>
<p id="keys" class="note">Drag to move, wheel or + and − to zoom, 0 to fit. Arrows go from unit to unit, Escape lets go,
/ searches. A unit's size and an edge's width grow with the square root of |effect|; faint: the 95 % interval contains
0, or, of a circuit that several runs agree on, few of them have the unit. Red: needed (removing it raises the loss).
Blue: harmful. Shades are layers, from left to right{stream}. A prompt shows what the units do at one of its tokens;
click another token to move there.</p>
</section>
"""


def circuit_page(
    circuits: Mapping[str, Any],
    *,
    title: str = "circuit",
    examples: Examples | None = None,
    shown: Mapping[str, Any] | None = None,
    when: str | None = None,
) -> str:
    """Return a page that shows circuits: one self-contained HTML file.

    Args:
        circuits: graphs as `skilloc.circuits` makes them, by the name under which each is chosen; of very many, the
            first are shown.
        title: of the page.
        examples: what excites each unit most, as `top_examples` collects it.
        shown: what units do on prompts, and which tokens they push, as `write_shown` returns it.
        when: a time to state; without it the same input gives the same bytes.

    Raises:
        ValueError: if there are no circuits, or one has no nodes.
    """
    (section,) = explained([circuits_section(circuits_found(circuits, None, n=LISTED), every=True)])
    circuits = dict(list(circuits.items())[:CIRCUITS])
    data = circuit_data(circuits, examples, shown)
    body = f"<header><h1>{escape(title)}</h1></header>\n<main>{panel(section, circuits, shown)}</main>"
    return document(title, body, data=data, when=when)


def circuit_data(
    circuits: Mapping[str, Any], examples: Examples | None = None, shown: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what the script of the page shows: plain values, numbers with three significant digits."""
    if not circuits:
        raise WrongValue("`circuits` is empty; pass at least one circuit by name")
    records = [_record(name, graph) for name, graph in circuits.items()]
    there = {name for record in records for name in record["nodes"]["name"]}
    drawn = {name for record in records for name in record["subtasks"]}
    beside = shown or {"prompts": [], "pushes": {}}
    return {
        "circuits": records,
        "examples": {unit: _plain(found) for unit, found in (examples or {}).items() if unit in there},
        "prompts": [
            {**one, **{part: _known(one[part], there) for part in ("activations", "attention")}}
            for one in beside["prompts"]
            if one["subtask"] in drawn
        ],
        "pushes": _known(beside["pushes"], there),
    }


def _known(by_unit: Mapping[str, Any], units: Set[str]) -> dict[str, Any]:
    return {name: found for name, found in by_unit.items() if name in units}


def _plain(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "activations": [rounded(float(a)) for a in one["activations"]]} for one in found]


def _record(name: str, graph: Any) -> dict[str, Any]:
    diagram = diagram_of(graph)
    places = place(diagram)
    nodes = [graph.nodes[node] for node in diagram.names]
    edges = [graph.edges[diagram.names[a], diagram.names[b]] for a, b in diagram.edges]
    weights = [edge.get(names.WEIGHT) for edge in edges]
    shares = [node.get(names.SHARE) for node in nodes]
    adds = [node.get(names.ADDS, {}).get(graph.graph.get(names.SUBTASK)) for node in nodes]
    own = diagram.subtasks.index(graph.graph.get(names.SUBTASK, diagram.subtasks[0]))
    told = circuit_found(graph)
    return {
        "name": name,
        "called": names.called(graph),
        "said": " ".join(filter(None, (circuit_words(told), edge_words(told), drawn_words(told)))),
        "nested": not str(graph.graph.get(names.CHOSEN, "")).endswith(names.GATES),
        "subtask": graph.graph.get(names.SUBTASK, diagram.subtasks[0]),
        "subtasks": list(diagram.subtasks),
        "unit": diagram.unit,
        "stream": _streams(graph),
        "nodes": {
            "name": list(diagram.names),
            "kind": list(diagram.kinds),
            "layer": diagram.layers.tolist(),
            "column": diagram.columns.tolist(),
            "hook": [node.get(names.HOOK) for node in nodes],
            "x": [rounded(x, 4) for x in places[:, 0]],
            "y": [rounded(y, 4) for y in places[:, 1]],
            **_packed(diagram.effects, diagram.low, diagram.high),
            "adds": adds if any(adds) else None,
            "share": shares if any(shares) else None,
        },
        "edges": {
            "from": diagram.edges[:, 0].tolist(),
            "to": diagram.edges[:, 1].tolist(),
            **_packed(diagram.flows, diagram.flows_low, diagram.flows_high),
            "weight": [None if w is None else rounded(w) for w in weights] if any(weights) else None,
            "score": [rounded(x) for x in diagram.strengths[own]] if any(names.SCORE in one for one in edges) else None,
        },
        "few": few(graph),
        "measured": sorted({edge[names.MEASURED] for edge in edges if names.MEASURED in edge}),
        "faithfulness": graph.graph.get(names.FAITHFULNESS) or [],
        "colours": [plots.colour_of(s) for s in range(len(diagram.subtasks))],
    }


def _packed(value: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    """Return effects as whole numbers of a unit, three digits each (intervals two), which is half as long as decimals.

    An interval that is symmetric, as those over folds are, is kept as its half-width.
    """
    known = np.abs(value[np.isfinite(value) & (value != 0)])
    unit = 10.0 ** (np.floor(np.log10(np.quantile(known, 0.1))) - 2) if len(known) else 1.0
    ends = {"value": value, "low": low, "high": high}
    if np.allclose(high - value, value - low, rtol=0.02, atol=unit, equal_nan=True):
        ends = {"value": value, "half": (high - low) / 2}
    digits = {"value": 3}
    packed = {
        end: [[_whole(x / unit, digits.get(end, 2)) for x in row] for row in rows.tolist()]
        for end, rows in ends.items()
    }
    return {"unit": rounded(unit, 1), **packed}


def _whole(value: float, figures: int) -> int | None:
    """Return a value as a whole number; only 0 becomes 0."""
    found = rounded(value, figures)
    if found is None or found == 0:
        return None if found is None else 0
    return round(found) or (1 if found > 0 else -1)


def _streams(graph: Any) -> bool:
    """Return whether the model of a circuit has a residual stream: one that ends in logits of tokens."""
    return any(node == "logits" and graph.nodes[node][names.KIND] == names.OUTPUT for node in graph)


def panel(section: Section, circuits: Mapping[str, Any], shown: Mapping[str, Any] | None = None) -> str:
    """Return the HTML of a section about circuits: what is said of them, the interactive circuit, and tables.

    For readers without script there is a picture of each.
    """
    stills, controls = [], _CONTROLS.format(stream=_STREAM if any(map(_streams, circuits.values())) else "")
    for name, graph in circuits.items():
        diagram = diagram_of(graph)
        subtask = graph.graph.get(names.SUBTASK, diagram.subtasks[0])
        title = f"{name}: {names.called(graph)}"
        svg = still(diagram, subtask, title=title, most=few(graph), stability=stability_of(graph, diagram.names))
        stills.append(f"<noscript><h3>{escape(title)}</h3>\n{svg}</noscript>")
    told = replace(section, tables=(*section.tables, *_tables(shown or {})))
    return body_of(told, before="\n".join([controls, *stills]), folded="The circuits as tables")


def _tables(shown: Mapping[str, Any]) -> list[Table]:
    """Return what the page shows on prompts, for readers without script: where heads look, and what neurons push."""
    prompts: list[tuple[Cell, ...]] = [
        ("".join(one["tokens"]), one["subtask"], one["answer"], _looked(one)) for one in shown.get("prompts", ())
    ]
    pushes: list[tuple[Cell, ...]] = [
        (unit, _quoted(found["up"]), _quoted(found["down"])) for unit, found in shown.get("pushes", {}).items()
    ]
    columns = ("prompt", "subtask", "answer", "attended to most where the answer begins")
    pushed = ("neuron", "likelier", "less likely")
    return [
        *(
            [Table("prompts on this page, and what the circuit's heads attend to", columns, tuple(prompts))]
            if prompts
            else []
        ),
        *(
            [Table("tokens that neurons push by themselves where they are positive", pushed, tuple(pushes))]
            if pushes
            else []
        ),
    ]


def _looked(prompt: Mapping[str, Any]) -> str:
    said = []
    for head, rows in list(prompt["attention"].items())[:HEADS]:
        row = rows[prompt["asked"]]
        most = sorted(range(len(row)), key=lambda k: (-row[k], k))[:LOOKED]
        looked = ", ".join(f"{prompt['tokens'][k]!r} {row[k]} %" for k in most if row[k])
        said.append(f"{head}: {looked or 'what stands before'}")
    return "; ".join(said)


def _quoted(tokens: Sequence[str]) -> str:
    return " ".join(map(repr, tokens))
