"""The page in a real browser: it draws, answers to mouse and keys, is quick, asks for nothing, and runs no text.

Where there is no browser these tests are skipped; in CI, where the variable of that name is set, they fail.
"""

import os

import networkx as nx
import numpy as np
import pytest
from browser import BROWSER, Browser

from skilloc.report import circuit_page
from skilloc.report.circuits_found import circuit_found

pytestmark = pytest.mark.skipif(
    BROWSER is None and not os.environ.get("CI"), reason="needs a browser: make browser, or apt-get install chromium"
)

HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert BROWSER is not None, "the page is not tested without a browser: make browser, or apt-get install chromium"
    found = Browser(tmp_path_factory.mktemp("browser"))
    yield found
    found.close()


def circuit(units, edges, *, subtasks=("python", "cpp")):
    random = np.random.default_rng(0)

    def effect(size):
        return {name: {"value": v, "low": v - 0.02, "high": v + 0.02} for name, v in zip(subtasks, size, strict=True)}

    graph = nx.DiGraph(version=1, subtask=subtasks[0], subtasks=list(subtasks), chosen=f"top {units}")
    graph.graph["faithfulness"] = [
        {"size": size, "faithfulness": share, "low": share - 0.05, "high": share + 0.05, "random": 0.1}
        for size, share in ((1, 0.2), (units // 2, 0.6), (units, 0.95))
    ]
    graph.add_node("tokens", kind="input", layer=-1, column=0, position=0, effect={})
    for u in range(units):
        size = random.normal(size=len(subtasks)) * random.random()
        graph.add_node(
            f"L{u % 4}N{u}", kind="neuron", layer=u % 4, column=1 + u % 4, position=u, hook="h", effect=effect(size)
        )
    graph.add_node("logits", kind="output", layer=4, column=5, position=0, effect={})
    pairs = [(a, b) for a in graph for b in graph if graph.nodes[a]["column"] < graph.nodes[b]["column"]]
    for i in random.choice(len(pairs), edges, replace=False):
        graph.add_edge(*pairs[i], effect=effect(random.normal(size=len(subtasks)) * random.random()))
    return graph


GRAPHS = {"python": circuit(20, 60), HOSTILE: circuit(12, 30, subtasks=("cpp", HOSTILE))}
HEAD = "L1N1"  # whatever its kind: what a page knows of attention makes a head
ATTENDED = [[100], [30, 70], [5, 80, 15]]


def prompts(graph):
    """Two prompts; at the last token of the second, each unit does its own number of twentieths."""
    names = [name for name in graph if graph.nodes[name]["kind"] == "neuron"]
    own = {name: [0.0, -1.0, i / 20] for i, name in enumerate(names)}
    about = {"asked": 2, "answer": HOSTILE, "attention": {HEAD: ATTENDED}}
    return [
        {"subtask": "cpp", "tokens": ["int", " ", "x"], "activations": {n: [0.5, 0, 0] for n in names}, **about},
        {"subtask": "python", "tokens": [HOSTILE, "def", " f"], "activations": own, **about},
    ]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    home = tmp_path_factory.mktemp("pages")
    found = {}
    graphs = GRAPHS
    examples = {
        name: [{"subtask": HOSTILE, "tokens": ["def ", HOSTILE, "\n"], "activations": [0.1, 2.0, -0.3]}]
        for name in graphs["python"]
    }
    examples[HEAD][0]["attention"] = ATTENDED
    shown = {"prompts": prompts(graphs["python"]), "pushes": {"L0N0": {"up": [HOSTILE, " a"], "down": ["b"]}}}
    agreed = circuit(8, 0)
    for name in agreed:
        agreed.nodes[name]["share"] = 0.2
    for name, page in (
        ("small", circuit_page(graphs, title=HOSTILE, examples=examples, shown=shown)),
        ("agreed", circuit_page({"all": circuit(8, 0), "some": agreed})),
        ("large", circuit_page({"python": circuit(300, 5000)})),
    ):
        found[name] = home / f"{name}.html"
        found[name].write_text(page, encoding="utf-8")
    return found


PLACE = """(() => {
  const c = JSON.parse(document.getElementById("data").textContent).circuits[0].nodes, n = c.name.indexOf(%r);
  const box = document.getElementById("canvas").getBoundingClientRect(), left = Math.min(...c.x);
  const scale = (box.width - 150) / (Math.max(...c.x) - left);
  return [box.left + 75 + (c.x[n] - left) * scale, box.top + 26 + (1 - c.y[n]) * (box.height - 52)];
})()"""
UNIT = "document.getElementById('panel').dataset.unit"
SAID = "document.getElementById('faithfulness').textContent"


def shown(browser):
    found = browser.run("({...document.getElementById('canvas').dataset})")
    return int(found["units"]), int(found["edges"])


def slide(browser, name, value):
    browser.run(
        f"(() => {{ const s = document.getElementById({name!r}); s.value = {value};"
        " s.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def ink(browser):
    """How many pixels of the canvas are drawn on, and their mean red."""
    return browser.run(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {"
        " const c = document.getElementById('canvas');"
        " const p = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0, sum = 0;"
        " for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 40) { n++; sum += p[i + 2]; }"
        " done([n, sum / Math.max(1, n)]); })))"
    )


def test_it_draws_and_a_click_opens_a_unit(browser, pages):
    browser.open(pages["small"])
    assert shown(browser) == (20, circuit_found(GRAPHS["python"]).few)
    assert ink(browser)[0] > 5000
    assert browser.run(UNIT) == ""
    for name in ("L0N0", "L3N7"):
        x, y = browser.run(PLACE % name)
        browser.mouse("mouseMoved", x, y)
        assert name in browser.until("document.getElementById('tip').textContent")
        browser.mouse("mousePressed", x, y)
        browser.mouse("mouseReleased", x, y)
        assert browser.run(UNIT) == name
    said = browser.run("document.getElementById('panel').innerText")
    assert "neuron of layer 3, h" in said
    assert "cpp" in said
    assert "Comes from" in said
    assert "Excited most by" in said


def test_dragging_moves_and_the_wheel_zooms(browser, pages):
    browser.open(pages["small"])
    x, y = browser.run(PLACE % "L0N0")
    browser.mouse("mousePressed", x + 40, y + 15)
    browser.mouse("mouseMoved", x + 100, y + 45)
    browser.mouse("mouseReleased", x + 100, y + 45)
    browser.mouse("mousePressed", x + 60, y + 30)
    browser.mouse("mouseReleased", x + 60, y + 30)
    assert browser.run(UNIT) == "L0N0"
    browser.send("Input.dispatchMouseEvent", type="mouseWheel", x=x + 60, y=y + 30, deltaX=0, deltaY=-400)
    browser.key("Escape")
    browser.mouse("mousePressed", x + 60, y + 30)  # what the pointer was on stays under it
    browser.mouse("mouseReleased", x + 60, y + 30)
    assert browser.run(UNIT) == "L0N0"


def test_sliders_change_what_is_shown_and_say_the_faithfulness(browser, pages):
    browser.open(pages["small"])
    assert "0.950 [0.90, 1.0] with 20 units (random units 0.10)" in browser.run(SAID)
    everything = ink(browser)[0]
    slide(browser, "nodes", 10)
    units, edges = shown(browser)
    assert units == 10
    assert edges < 60
    assert "0.600 [0.55, 0.65] with 10 units" in browser.run(SAID)
    assert ink(browser)[0] < everything
    slide(browser, "nodes", 12)  # between two measured sizes, both are said
    assert "with 10 units" in browser.run(SAID)
    assert "with 20 units" in browser.run(SAID)
    slide(browser, "nodes", 20)
    flows = sorted(
        (abs(edge["effect"]["python"]["value"]) for *_, edge in GRAPHS["python"].edges(data=True)), reverse=True
    )
    for share in (300, 800, 1000):
        slide(browser, "edges", share)
        sums = np.cumsum(flows) / np.sum(flows)
        assert shown(browser) == (20, int(np.searchsorted(sums, share / 1000 - 1e-9)) + 1)
        carried = round(100 * float(sums[shown(browser)[1] - 1]))
        assert f", {carried} % of all that passes" in browser.run("document.getElementById('edges-said').textContent")
    slide(browser, "edges", 0)
    assert shown(browser) == (20, 0)


def test_search_finds_and_a_hidden_unit_comes_back(browser, pages):
    browser.open(pages["small"])
    slide(browser, "nodes", 1)
    browser.run("document.getElementById('search').focus()")
    browser.send("Input.insertText", text="l2n6")
    assert browser.run(UNIT) == "L2N6"
    assert shown(browser)[0] > 1
    browser.run("document.getElementById('search').value = 'nothing'")
    browser.run("document.getElementById('search').form.requestSubmit()")
    assert browser.run("document.getElementById('search').validationMessage") == "no such unit in this circuit"


def test_keys_go_from_unit_to_unit(browser, pages):
    browser.open(pages["small"])
    browser.run("document.getElementById('canvas').focus()")
    seen = []
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        browser.key(key)
        seen.append(browser.run(UNIT))
    assert all(seen)
    columns = [5 if name == "logits" else 0 if name == "tokens" else 1 + int(name[1]) for name in seen]
    assert columns[2] == min(5, columns[0] + 2)
    assert columns[3] == columns[2] - 1
    browser.key("Escape")
    assert browser.run(UNIT) == ""
    browser.key("/")
    assert browser.run("document.activeElement.id") == "search"


def test_subtasks_and_circuits_are_switched(browser, pages):
    browser.open(pages["small"])
    before = ink(browser)[1]
    browser.run("(() => { const s = document.getElementById('subtask'); s.value = '-1';"
                " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert "needed most by cpp" in browser.run("document.getElementById('legend').textContent")
    assert ink(browser)[1] != before
    browser.run("(() => { const s = document.getElementById('which'); s.value = '1';"
                " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert shown(browser) == (12, circuit_found(GRAPHS[HOSTILE]).few)
    assert browser.run("document.getElementById('called').textContent") == f"{HOSTILE}: units that matter most"


def test_hostile_text_stays_text_and_nothing_is_asked_for(browser, pages):
    browser.open(pages["small"])
    browser.run("document.getElementById('search').focus()")
    browser.send("Input.insertText", text="L0N0")
    said = browser.run("document.getElementById('panel').textContent")
    assert f"makes likelier, by itself: “{HOSTILE}” “ a”; less likely: “b”" in said
    assert said.count(HOSTILE) >= 2
    browser.run("document.querySelector('#prompts button').click()")
    assert browser.run("document.getElementById('prompts').textContent").count(HOSTILE) == 2
    assert browser.run("document.title") == HOSTILE
    assert browser.run("document.querySelectorAll('img').length") == 0
    browser.run("(() => { const s = document.getElementById('which'); s.value = '1';"
                " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert browser.run("typeof window.hacked") == "undefined"
    kinds = [event["method"] for event in browser.events]
    assert "Runtime.exceptionThrown" not in kinds
    assert "Runtime.consoleAPICalled" not in kinds
    assert "Log.entryAdded" not in kinds
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} <= {f"file://{pages['small']}", "about:blank"}


def test_a_click_shows_what_a_head_attends_to(browser, pages):
    browser.open(pages["small"])
    browser.run("document.getElementById('search').focus()")
    browser.send("Input.insertText", text=HEAD)
    token = "document.querySelectorAll('#panel .token')[%d]"
    background = f"getComputedStyle({token}).backgroundColor"
    assert "click a token" in browser.run("document.getElementById('panel').textContent")
    before = browser.run(background % 2)
    x, y = browser.run(
        f"(() => {{ {token % 2}.scrollIntoView(); const b = {token % 2}.getBoundingClientRect();"
        " return [b.left + 3, b.top + 5]; })()"
    )
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseReleased", x, y)
    assert "At “↵” it attends to: “" in browser.run("document.getElementById('panel').textContent")
    assert f"“{HOSTILE}” 80 %, “↵” 15 %, “def ” 5 %." in browser.run("document.getElementById('panel').textContent")
    assert browser.run(background % 2) != before
    titles = browser.run("[...document.querySelectorAll('#panel .token')].map((one) => one.title)")
    assert titles == ["5 %", "80 %", "15 %"]
    browser.run(f"{token % 1}.focus()")
    browser.key("Enter")
    titles = browser.run("[...document.querySelectorAll('#panel .token')].map((one) => one.title)")
    assert titles == ["30 %", "70 %", "comes later"]


def test_a_click_on_a_prompt_shows_what_the_circuit_does_there(browser, pages):
    browser.open(pages["small"])
    before = ink(browser)
    pressed = "[...document.querySelectorAll('#prompts button[aria-pressed]')].map((one) => one.ariaPressed)"
    assert browser.run(pressed) == ["false", "false"]
    browser.run("document.querySelector('#prompts button').click()")  # that of the circuit's own subtask comes first
    assert browser.run(pressed) == ["true", "false"]
    assert browser.run("document.getElementById('canvas').dataset.prompt") == "1"
    assert ink(browser) != before
    said = browser.run("document.getElementById('prompts').textContent")
    assert f"Right after “ f”: “{HOSTILE}”." in said
    assert "on this page: L3N19 48 % L2N18 45 %" in said  # of 2, in its example
    assert "active, above 0" in browser.run("document.getElementById('legend').textContent")
    token = "document.querySelectorAll('#prompts .token')[%d]"
    browser.run(f"{token % 1}.click()")
    second = ink(browser)
    browser.run(f"{token % 0}.click()")  # where all are at 0
    assert ink(browser) != second
    browser.run("document.getElementById('search').focus()")
    browser.send("Input.insertText", text=HEAD)
    assert f"{HEAD}. At “{HOSTILE}” it attends to: “{HOSTILE}” 100 %" in browser.run(
        "document.getElementById('prompts').textContent"
    )
    browser.run("document.querySelector('#prompts button').click()")
    browser.run("document.getElementById('canvas').focus()")
    browser.key("Escape")
    assert ink(browser) == before


def test_what_few_runs_agree_on_is_faint(browser, pages):
    browser.open(pages["agreed"])
    of_all = ink(browser)
    browser.run("(() => { const s = document.getElementById('which'); s.value = '1';"
                " s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert browser.run("document.getElementById('called').textContent") == "some: units that matter most"
    assert ink(browser)[1] != of_all[1]


def test_dark_mode_is_dark(browser, pages):
    browser.open(pages["small"])
    paper = "getComputedStyle(document.body).backgroundColor"
    light, drawn = browser.run(paper), ink(browser)
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        assert light == "rgb(255, 255, 255)"
        assert sum(map(int, browser.run(paper)[4:-1].split(","))) < 120
        browser.run("1")
        assert ink(browser)[1] != drawn[1]
    finally:
        browser.send("Emulation.setEmulatedMedia", features=[])


def test_it_reads_without_script(browser, pages):
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.events.clear()
        browser.send("Page.navigate", url=f"file://{pages['small']}")
        while not any(event["method"] == "Page.loadEventFired" for event in browser.events):
            browser.send("Page.getFrameTree")
        root = browser.send("DOM.getDocument")["root"]["nodeId"]
        pictures = browser.send("DOM.querySelectorAll", nodeId=root, selector="svg.still")["nodeIds"]
        assert len(pictures) == 2
        box = browser.send("DOM.getBoxModel", nodeId=pictures[0])["model"]
        assert min(box["width"], box["height"]) > 300
        assert len(browser.send("DOM.querySelectorAll", nodeId=root, selector="svg.still path")["nodeIds"]) == sum(
            circuit_found(graph).few for graph in GRAPHS.values()
        )
        tables = browser.send("DOM.querySelectorAll", nodeId=root, selector="table")["nodeIds"]
        assert len(tables) == 8
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_three_hundred_nodes_and_five_thousand_edges_redraw_in_less_than_a_tenth_of_a_second(browser, pages):
    browser.open(pages["large"])
    ink(browser)
    before = browser.seconds()
    browser.run("location.hash = '#time'")
    times = list(map(float, browser.until("document.getElementById('canvas').dataset.times").split()))
    assert shown(browser) == (300, 5000)
    spent = 1000 * (browser.seconds() - before) / len(times)
    # Other work on the machine only adds to the clock; the processor's own time tells then.
    assert min(*times, spent) < 100, (times, spent)
