"""Pages as files: whole, small, the same every time, without any reference, and safe whatever text they hold."""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from skilloc import store
from skilloc.ablation.removal import Removal
from skilloc.circuits import graph as circuit_graph
from skilloc.cli import main
from skilloc.effects import Effects
from skilloc.relearning import Relearning, summary
from skilloc.report import circuit_page, report_page, write
from skilloc.report.document import embedded, escape
from skilloc.report.panel import circuit_data
from skilloc.units import Units, heads, neurons

HOSTILE = '</script><script>window.hacked=1</script><!--<img src="http://x.example/a.png" onerror=alert(1)>&amp; \u2028'
NAMES = ("python", "cpp")


def circuit(units=6, *, names=NAMES, edges=None, seed=0):
    random = np.random.default_rng(seed)

    def effect(value):
        return {name: {"value": value, "low": value - 0.01, "high": value + 0.01} for name in names}

    graph = nx.DiGraph(version=1, subtask=names[0], subtasks=list(names), chosen="top", reference="zero")
    graph.graph |= {
        "model": {"name": "toy", "digest": "f00"}, "baseline": {}, "floor": {}, "made": {},
        "faithfulness": [{"size": units, "faithfulness": 0.9, "low": 0.8, "high": 1.0, "random": 0.1}],
    }  # fmt: skip
    for u in range(units):
        attributes = {"kind": "neuron", "layer": u % 2, "column": 1 + u % 2, "position": u, "hook": f"layers.{u % 2}"}
        graph.add_node(f"L{u % 2}N{u}", **attributes, effect=effect(float(random.normal())))
    pairs = [(a, b) for a in graph for b in graph if graph.nodes[a]["layer"] < graph.nodes[b]["layer"]]
    for i in random.choice(len(pairs), len(pairs) if edges is None else edges, replace=False):
        graph.add_edge(*pairs[i], effect=effect(float(random.normal())), measured="total")
    return graph


class Reader(HTMLParser):
    """The elements and texts of a page, as a browser without script sees them."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.texts, self.inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data):
        self.texts.append((self.inside[-1] if self.inside else "", data))


def read(page):
    found = Reader(page)
    (data,) = [text for tag, text in found.texts if tag == "script" and text.startswith("{")]
    return found, json.loads(data)


def test_numbers_survive_the_packing():
    graph = circuit()
    nodes = circuit_data({"python": graph})["circuits"][0]["nodes"]
    for n, name in enumerate(nodes["name"]):
        wanted = graph.nodes[name]["effect"]["cpp"]
        value, half = (nodes[end][1][n] * nodes["unit"] for end in ("value", "half"))
        assert value == pytest.approx(wanted["value"], rel=5e-3)
        assert half == pytest.approx(0.01, rel=5e-2)


def test_lopsided_and_unknown_intervals_are_kept():
    graph = circuit()
    first, second = list(graph)[:2]
    graph.nodes[first]["effect"]["python"] |= {"low": -9.0}
    graph.nodes[second]["effect"] = {}
    nodes = circuit_data({"python": graph})["circuits"][0]["nodes"]
    a, b = nodes["name"].index(first), nodes["name"].index(second)
    assert nodes["low"][0][a] * nodes["unit"] == pytest.approx(-9.0, rel=5e-2)
    assert nodes["value"][0][b] is nodes["high"][0][b] is None


def test_only_zero_becomes_zero():
    graph = circuit()
    for i, (a, b) in enumerate(graph.edges):
        graph.edges[a, b]["effect"]["python"] = {"value": 0.0 if i == 0 else 1e-9 if i == 1 else 5.0}
    edges = circuit_data({"python": graph})["circuits"][0]["edges"]
    assert [value == 0 for value in edges["value"][0]].count(True) == 1


def test_the_page_asks_for_nothing():
    page = circuit_page({"python": circuit()})
    found, _ = read(page)
    assert not re.search(r"https?://|//[a-z]|@import|url\(", page.split('<script type="application/json"')[0])
    for tag, attributes in found.elements:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    (policy,) = [a["content"] for tag, a in found.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    scripts = policy.partition("script-src ")[2]
    assert scripts.startswith("'sha256-")
    assert "unsafe" not in scripts


def test_hostile_text_is_text():
    graph = nx.relabel_nodes(circuit(names=(HOSTILE, "cpp")), {"L0N0": HOSTILE})
    examples = {HOSTILE: [{"subtask": HOSTILE, "tokens": [HOSTILE], "activations": [1.0], "target": HOSTILE}]}
    page = circuit_page({HOSTILE: graph}, title=HOSTILE, examples=examples)
    found, data = read(page)
    assert [tag for tag, _ in found.elements].count("script") == 2
    assert "img" not in [tag for tag, _ in found.elements]
    assert data["circuits"][0]["subtask"] == HOSTILE
    assert data["examples"][HOSTILE][0]["tokens"] == [HOSTILE]
    assert ("title", HOSTILE) in found.texts


@pytest.mark.parametrize("text", [HOSTILE, "]]>", "<!--<script>", "\u2029", "\\", '"'])
def test_embedded_text_comes_back_and_cannot_leave_its_element(text):
    assert not set("<>&\u2028\u2029") & set(embedded({text: text}))
    assert json.loads(embedded({text: text})) == {text: text}
    assert "<" not in escape(text)


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="JSON"):
        embedded({"a": float("nan")})


def test_it_is_readable_without_script():
    graph = circuit()
    page = circuit_page({"python": graph})
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for name in graph:
        assert outside.count(name) >= 3  # in the picture, the table of units and that of edges
    assert "<noscript>" in outside
    assert "0.900 [0.800, 1]" in outside


@pytest.mark.slow
def test_the_same_circuit_is_the_same_page_in_another_process(tmp_path):
    circuit_graph.save(circuit(), tmp_path / "circuit.json")
    code = (
        "import sys; from skilloc.circuits.graph import load; from skilloc.report import circuit_page;"
        "sys.stdout.buffer.write(circuit_page({'python': load(sys.argv[1])}, when='noon').encode())"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "circuit.json"],
        env={**os.environ, "PYTHONHASHSEED": "1"}, capture_output=True, check=True,
    ).stdout.decode()  # fmt: skip
    page = circuit_page({"python": circuit()}, when="midnight")
    assert other != page
    assert other.replace("noon", "midnight") == page


def test_five_thousand_edges_stay_small():
    page = circuit_page({"python": circuit(200, names=("python",), edges=5000)})
    assert len(page) < 300_000


def test_no_circuit_is_said():
    with pytest.raises(ValueError, match="pass at least one circuit"):
        circuit_page({})


UNITS = Units((heads("blocks.0.attn.hook_z", 4, 0), neurons("blocks.0.mlp.hook_post", 40, 0)))


@pytest.fixture
def folder(tmp_path):
    """A study as a folder: effects, removal, two circuits and examples."""
    random = np.random.default_rng(0)
    drawn = {"sequences": 8, "length": 16, "split": "report", "seed": 0, "subtasks": {"python": {"source": HOSTILE}}}
    made = {"method": "ablation", "name": "toy", "model": "f00", "reference": {"name": "zero"}, "drawn": drawn}
    made |= {"tokens": {"python": "abc123"}, "versions": {"torch": "9.9"}}
    values = random.normal(size=(8, 2, 44)) * 0.01
    values[:, :, 5] += 1.0
    effects = Effects(values, np.full((8, 2), 3.0), NAMES, UNITS, np.ones(44, bool), made)
    store.save(effects, tmp_path / "study" / "effects")
    matrix = random.normal(size=(2, 8, 2, 2)) * 0.01 + np.eye(2)
    removal = Removal(matrix, 0.1 * random.random((3, 2, 8, 2, 2)), np.full((8, 2), 3.0), NAMES, (2, 8), made)
    store.save(removal, tmp_path / "study" / "removal")
    for name in NAMES:
        graph = circuit()
        graph.graph["subtask"] = name
        circuit_graph.save(graph, tmp_path / "study" / "circuits" / f"{name}.json")
    examples = {"L0N0": [{"subtask": "python", "tokens": [HOSTILE], "activations": [1.0]}]}
    (tmp_path / "study" / "circuits" / "examples.json").write_text(json.dumps(examples))
    for place, unit, push in (("circuits", "L0N0", HOSTILE), ("others", "L1N1", "b"), ("others", "L9N9", "c")):
        about = {"subtask": "python", "tokens": ["def", HOSTILE], "asked": 1, "answer": HOSTILE}
        prompt = {**about, "activations": {unit: [1, 2]}, "attention": {unit: [[100], [40, 60]]}}
        shown = {"prompts": [prompt], "pushes": {unit: {"up": [push], "down": [" d"]}}}
        path = tmp_path / "study" / place / (unit if unit == "L9N9" else "") / "shown.json"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(json.dumps(shown))
    return tmp_path / "study"


def test_a_report_tells_everything_that_was_measured(folder):
    page = report_page(folder)
    found, data = read(page)
    assert [one["name"] for one in data["circuits"]] == ["python", "cpp"]
    assert data["examples"]["L0N0"][0]["tokens"] == [HOSTILE]
    (prompt,) = data["prompts"]  # each once, with the units of all folders that are in a circuit
    assert prompt["activations"] == {"L0N0": [1, 2], "L1N1": [1, 2]}
    assert data["pushes"] == {"L0N0": {"up": [HOSTILE], "down": [" d"]}, "L1N1": {"up": ["b"], "down": [" d"]}}
    texts = " ".join(text for _, text in found.texts)
    for words in (
        "What the units of toy do", "44 of 44 units", "L0N1 1.0", "effective number of units", "more local than chance",
        "overlap of effects", "top 8 units removed", "Circuits", "abc123", "9.9", "sha256",
    ):  # fmt: skip
        assert words in texts, words
    pictures = [attributes["alt"] for tag, attributes in found.elements if tag == "img"]
    assert len(pictures) == 5
    assert page == report_page(folder)


def test_a_report_needs_no_circuits_and_no_study(folder, tmp_path):
    (folder / "circuits").rename(tmp_path / "alone")
    without = report_page(folder)
    assert "<script" not in without
    assert "script-src 'none'" in without
    assert "Circuits" not in without
    alone, data = read(report_page(tmp_path / "alone"))
    assert len(data["circuits"]) == 2
    assert "img" not in [tag for tag, _ in alone.elements]


def test_what_one_run_found_gives_way_to_what_runs_agree_on(folder):
    for i in range(2):
        graph = circuit(4)
        circuit_graph.save(graph, folder / "circuits" / f"run_{i}" / "python.json")
    _, data = read(report_page(folder))
    assert [len(one["nodes"]["name"]) for one in data["circuits"]] == [6, 6]


def told(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def test_the_command_writes_one_file_beside_the_study(folder, capsys):
    main(["report", str(folder)])
    assert str(folder / "report.html") in capsys.readouterr().out
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Written 2" in page
    assert [path.name for path in folder.iterdir() if ".aside" in path.name] == []


def test_errors_of_the_command_are_one_line_with_a_cure(folder, tmp_path, capsys):
    assert "holds no study" in told(["report", tmp_path / "nothing"], capsys)
    assert "name a file" in told(["report", folder, "--out", tmp_path], capsys)
    assert "is no study, but holds study; name one" in told(["report", tmp_path], capsys)
    (folder / "circuits" / "cpp.json").write_text('{"directed": true, "version": 7}')
    assert "cpp.json" in told(["report", folder], capsys)
    (folder / "circuits" / "cpp.json").unlink()
    (folder / "circuits" / "examples.json").write_text("[1")
    assert "make the circuits again" in told(["report", folder], capsys)
    (folder / "circuits" / "examples.json").unlink()
    (folder / "effects" / "metrics.json").write_text("{}")
    assert "make the result again" in told(["report", folder], capsys)


def test_a_page_is_written_whole_or_not_at_all(tmp_path):
    write(tmp_path / "new" / "page.html", "\udcff first")
    write(tmp_path / "new" / "page.html", "second")
    assert [path.name for path in Path(tmp_path / "new").iterdir()] == ["page.html"]
    text = (tmp_path / "new" / "page.html").read_text()
    assert text.startswith("second\n<!-- sha256 ")
    assert store.check_seal(text, "the page") == "second\n"
    with pytest.raises(ValueError, match="the page was altered after it was written"):
        store.check_seal(text.replace("second", "third"), "the page")


def test_a_report_shows_attacks_with_their_verdict(folder):
    models, rates, steps, seeds, folds = (
        ("original", "never trained", "random mask", "small"),
        (0.1, 0.2),
        (0, 4, 16),
        3,
        4,
    )
    loss = np.array([[0.1, 0.1, 0.1], [0.69, 0.6, 0.5], [0.6, 0.3, 0.1], [0.69, 0.6, 0.5]])  # model step
    noise = 0.01 * np.random.default_rng(0).random((4, 2, 1, 2, 3, seeds, folds))
    report = loss[:, None, None, None, :, None, None] + noise
    repair = np.full((4, 2, seeds, 1), 0.1)
    found = Relearning(
        selection=report.mean(axis=-1), report=report, kept=report.mean(axis=-1)[..., None], repair=repair,
        repair_steps=np.zeros((4, seeds)), learned=np.full((4, 2, seeds, folds), np.nan), models=models,
        ways=("as it is", "repaired"), sizes=(None,), rates=rates, steps=steps,
        subtasks=("parity_0",), chance=float(np.log(2)),
        made={"report": "parity_1", "kind": "relearning", "seeds": [0, 1, 2]},
    )  # fmt: skip
    store.save(found, folder / "relearning" / "small")
    reader, _ = read(report_page(folder))
    texts = " ".join(text for _, text in reader.texts)
    assert "Was it removed, or hidden?" in texts
    assert summary(found).split("\n")[0] in texts
    assert "loss after 16 steps" in texts
    assert "random mask" in texts
    assert len([tag for tag, _ in reader.elements if tag == "img"]) == 6


def test_a_report_leaves_no_number_out(folder):
    store.write(folder / "later" / "thing", {"what": "something new"}, {"loss": {"python": 1.25}, "word": HOSTILE})
    reader, _ = read(report_page(folder))
    texts = [text for _, text in reader.texts]
    assert "later/thing: 2 numbers" in texts
    assert "loss python" in texts
    assert "1.25" in texts
