"""The rules of the house that no type checker sees: who knows what a model is, and who knows what a loss is."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skilloc"

RULES = {
    "what a model is, only its makers ask": (r"isinstance\([^()]*\bMLP\b|hasattr\((\w+\.)?model\b", "models/"),
    "models are modules": (r"\b(model|network|smaller): Any\b", "models/"),
    "cross-entropy is written once": (
        r"\.cross_entropy\(|\b(log_softmax|logsumexp|logaddexp|nll_loss)\b",
        "tasks/losses/",
    ),
    "nothing is read off a hook's name": (r"\b(kind_of|layer_of)\b|hook\w*\.(endswith|startswith|split)\(", "units.py"),
}
"""By what is asked: a pattern that must not be there, and where it may."""


def lines(home: str) -> list[tuple[str, str]]:
    """All lines of the package's code, with where they are, but for one place."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not home or not name.startswith(home):
            text = path.read_text(encoding="utf-8").splitlines()
            found += [(f"{name}:{number}", line) for number, line in enumerate(text, 1)]
    return found


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_its_rules(rule):
    pattern, home = RULES[rule]
    broken = [f"{place}: {line.strip()}" for place, line in lines(home) if re.search(pattern, line)]
    assert not broken, "\n".join(broken)


def test_nothing_in_the_package_knows_an_analysis():
    names = "|".join(path.stem for path in (ROOT / "analyses").glob("*.py"))
    broken = [f"{place}: {line}" for place, line in lines("") if re.match(rf"\s*(from|import) ({names})\b", line)]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        ("what a model is, only its makers ask", "if isinstance(opened.model, MLP):"),
        ("what a model is, only its makers ask", 'inner = plain(model) if hasattr(model, "original_model") else model'),
        ("models are modules", "def faithfulness(model: Any, batches):"),
        ("cross-entropy is written once", "return functional.cross_entropy(logits, targets)"),
        ("cross-entropy is written once", "normal = logits.log_softmax(dim=-1)"),
        ("nothing is read off a hook's name", 'kind = "head" if hook.endswith("hook_z") else "neuron"'),
    ],
)
def test_a_broken_rule_is_found(rule, line):
    assert re.search(RULES[rule][0], line)


JSON = {
    "effects/alarms.py": "what a reference injects, kept with the effects on disk",
    "circuits/graph.py": "attributes of a circuit's nodes and edges, as its file holds them",
    "circuits/overlap.py": "the same, of a consensus",
    "models/residual_saved.py": "a part of a saved model's config.json",
    "models/saving.py": "the same",
    "relearning/runs.py": "a run's record on disk",
    "study/examples.py": "examples.json, which the page's script reads",
    "study/on_prompts.py": "shown.json, which it reads as well",
    "report/panel.py": "data of the page's script",
    "study/redrawn.py": "how examples were drawn, on disk, so that they can be drawn again",
    "tasks/formats.py": "rows of a file that people have, by field",
    "sweep/cells.py": "a cell's spec on disk",
    "sweep/grid.py": "the same",
    "training/optimisers.py": "torch's own form of parameter groups and states",
    "training/shards.py": "the same",
    "units.py": "parts of a vector, by hook",
    "relearning/known/recording.py": "the record of the self-test in the package",
    "locality/concentration.py": "scores by name",
    "relearning/attack.py": "losses by subtask",
}
"""Modules in which public functions return dicts of anything or of numbers, and which JSON or whose form that is, or by
which names the numbers go."""


RIGHT = tuple(
    f"{room}/" for room in ("attribution", "circuits", "effects", "locality", "plots", "relearning", "report")
)
"""Rooms in which results are no numbers by name either."""


def test_right_of_the_effects_results_are_typed():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or function.returns is None or function.name.startswith("_"):
                continue
            told = ast.unparse(function.returns)
            held = "Any|float" if name.startswith(RIGHT) else "Any"
            loose = re.search(rf"(dict|Mapping)\[str, ({held})\]", told) or told.endswith("Record")
            own = ("record", "metrics", "state", "after_evaluation")  # forms of an object's own that go to disk
            if loose and function.name not in own and not name.startswith(("cli/", "store/")):
                found.add(name)
    assert found == set(JSON)


AXES = {
    *("unit", "fold", "row", "shape", "pos", "example", "axes", "rest", "subtask", "point", "node", "d_model", "token"),
    *("size", "replicate", "pair", "group", "row_or_one", "d_vocab", "bank_and_end", "_unit", "_"),
}
"""Names of axes that stand alone in an annotation, which a checker of names takes for names of Python."""


def test_every_name_in_the_code_is_known():
    command = [sys.executable, "-m", "ruff", "check", "skilloc", "analyses", "--isolated", "--select", "F821"]
    done = subprocess.run([*command, "--output-format", "json"], cwd=ROOT, capture_output=True, text=True, check=False)
    unknown = {one["message"].split("`")[1]: one["filename"] for one in json.loads(done.stdout)}
    assert unknown, "no axis is named any more?"
    assert {name: file for name, file in unknown.items() if name not in AXES} == {}


def modules() -> dict[str, Path]:
    """All modules of the package, by dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The top-level entry of the package that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def arrows_between(sources: dict[str, str]) -> set[tuple[str, str]]:
    """From which room to which other one anything is imported, also under a condition or inside of a function."""
    arrows = set()
    for module, source in sources.items():
        named: list[str] = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                named += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                named += [name if name in sources else str(node.module) for name in whole]
        rooms = {room_of(name) for name in named if name.split(".")[0] == PACKAGE.name}
        arrows |= {(room_of(module), room) for room in rooms - {room_of(module)}}
    return arrows


def floors_of(arrows: set[tuple[str, str]]) -> dict[str, int]:
    """How many rooms stand above each other under each room, itself among them; refused where they go in circles."""
    below = {room: {b for a, b in arrows if a == room} for arrow in arrows for room in arrow}
    floors: dict[str, int] = {}
    while len(floors) < len(below):
        ready = [room for room in below if room not in floors and below[room] <= floors.keys()]
        assert ready, f"circles among {sorted(below.keys() - floors.keys())}"
        floors |= {room: 1 + max((floors[other] for other in below[room]), default=0) for room in ready}
    return floors


def test_the_house_can_be_drawn_from_memory():
    found = modules()
    arrows = arrows_between({module: path.read_text(encoding="utf-8") for module, path in found.items()})
    assert len({room_of(module) for module in found}) <= 24
    assert max(floors_of(arrows).values()) <= 9
    assert len(arrows) <= 130


def test_rooms_floors_and_arrows_of_a_small_house():
    sources = {
        "skilloc": "",
        "skilloc.low": "import numpy",
        "skilloc.middle": "from skilloc import low",
        "skilloc.middle.part": "from skilloc.low import a\nfrom skilloc.middle import b",
        "skilloc.high": "def f():\n    import skilloc.middle.part\n    from skilloc.low import a",
    }
    arrows = arrows_between(sources)
    assert arrows == {("middle", "low"), ("high", "middle"), ("high", "low")}
    assert floors_of(arrows) == {"low": 1, "middle": 2, "high": 3}
    with pytest.raises(AssertionError, match="circles among"):
        floors_of(arrows | {("low", "high")})


def test_the_contract_of_imports_names_every_room():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r"^layers = \[(.*?)\]", text, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"skilloc\.(\w+)", layers)) == {room_of(name) for name in modules()} - {
        "__init__",
        "__main__",
    }


def parameters_of(source: str) -> dict[str, int]:
    """How many parameters each function has, those with a keyword and those that gather the rest among them."""
    found = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            given, rest = node.args, (node.args.vararg, node.args.kwarg)
            names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, rest))]
            found[f"{node.name}:{node.lineno}"] = len([name for name in names if name not in ("self", "cls")])
    return found


def test_few_functions_have_more_than_six_parameters():
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "analyses").glob("*.py")]
    counted = {f"{path.name}:{name}": n for path in paths for name, n in parameters_of(path.read_text("utf-8")).items()}
    assert len([name for name, n in counted.items() if n > 6]) <= 8, {n: c for n, c in counted.items() if c > 6}


def test_every_parameter_counts():
    assert parameters_of("def f(self, a, /, b, *c, d=1, **e):\n    pass") == {"f:1": 5}
