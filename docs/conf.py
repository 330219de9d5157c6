"""Sphinx: pages in Markdown, and the public names of skilloc, by noun."""

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import skilloc

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project, author = "skilloc", "the skilloc authors"
copyright = "2026, the skilloc authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
autosummary_generate = False
exclude_patterns = ["_build", "data"]
html_theme, html_title = "furo", "skilloc"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # attributes as a list: a dataclass has each of them once
napoleon_use_rtype = napoleon_attr_annotations = False  # signatures have the types
default_role = "code"
python_maximum_signature_line_length = 100

DOCS = Path(__file__).parent
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):")
"""What starts an indented part of a docstring that is no formula."""

NOUNS: dict[str, tuple[str, ...]] = {
    "Subtasks": ("Subtask", "Examples", "subtasks_of", "prompts", "choices", "Asked", "parity_subtasks", "tasks"),
    "Models": ("open_model", "MLP", "describe", "At", "save_model", "units_of"),
    "Experiments": ("Experiment", "losses"),
    "Effects": ("Effects", "ablation_effects", "attribution_effects", "calibrate", "compare"),
    "Scores": ("locality",),
    "Masks": ("Mask", "masks", "hold", "mask_effects", "removal_effects"),
    "Pruned models": ("prune", "pruning"),
    "Trained models": ("train", "TrainConfig", "localize", "LocalizeConfig"),
    "Verdicts": ("relearn_probe", "relearning"),
    "Circuits": ("trace_circuit", "circuits"),
    "Studies": ("store",),
    "Pictures and pages": ("plots", "report"),
}  # fmt: skip
"""Every public name once, under the noun that it makes or works on."""


def slug(noun: str) -> str:
    """Return the name of a noun's page."""
    return noun.lower().replace(" ", "_")


def directive(name: str) -> str:
    """Return what documents a public name: followed to its home, by `skilloc` itself."""
    found = getattr(skilloc, name)
    if inspect.ismodule(found):
        title, options = f"skilloc.{name}", ["members:"]
        if hasattr(found, "__all__"):
            elsewhere = [own for own in found.__all__ if own in skilloc.__all__]
            options += ["imported-members:", f"exclude-members: {', '.join(elsewhere)}"]
        listed = "".join(f"\n   :{option}" for option in options)
        return f"{title}\n{'-' * len(title)}\n\n.. automodule:: skilloc.{name}{listed}\n"
    if inspect.isclass(found):
        return f".. autoclass:: skilloc.{name}\n   :members:\n"
    if callable(found):
        return f".. autofunction:: skilloc.{name}\n"
    return f".. py:data:: skilloc.{name}\n   :value: {found!r}\n"


def write_api(_: "Sphinx") -> None:
    """Write a page per noun, and the table of all."""
    folder = DOCS / "api"
    folder.mkdir(exist_ok=True)
    table = ["The public names", "================", "", "All that ``import skilloc as sk`` gives, by noun.", ""]
    for noun, names in NOUNS.items():
        lines = [noun, "=" * len(noun), "", *map(directive, names)]
        (folder / f"{slug(noun)}.rst").write_text("\n".join(lines), encoding="utf-8")
        table += [f":doc:`{slug(noun)}`", "", ".. autosummary::", "", *(f"   skilloc.{name}" for name in names), ""]
    table += [".. toctree::", "   :hidden:", "", *(f"   {slug(noun)}" for noun in NOUNS), ""]
    (folder / "index.rst").write_text("\n".join(table), encoding="utf-8")


def to_public(app: "Sphinx", env: Any, node: Any, contents: Any) -> Any:
    """Let what annotations name by its home lead to its public name."""
    home, _, name = node.get("reftarget", "").rpartition(".")
    if skilloc._HOME.get(name) != home:
        return None
    node["reftarget"] = f"skilloc.{name}"
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, node["reftype"], node["reftarget"], node, contents
    )


def own_words(app: "Sphinx", what: str, name: str, __: Any, ___: Any, lines: list[str]) -> None:
    """Give a constant the words below it in its module's home, not those of its type."""
    from sphinx.pycode import ModuleAnalyzer

    module, _, own = name.removeprefix("skilloc.").rpartition(".")
    if what == "data" and inspect.ismodule(found := getattr(skilloc, module, None)):
        lines[:] = ModuleAnalyzer.for_module(found.__name__).find_attr_docs().get(("", own), lines)


def as_rest(_: "Sphinx", what: str, __: str, ___: Any, ____: Any, lines: list[str]) -> None:
    """Let the mathematics of docstrings stand as written: formulas in blocks, bars as bars."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\ ")  # an empty text, or napoleon takes what stands before the first colon for a type
    found: list[str] = []
    section = formula = False
    for before, line in zip(["", *lines], lines, strict=False):
        if line.strip() and not line.startswith(" "):
            section, formula = SECTION.fullmatch(line) is not None, False
        elif line.startswith("    ") and not before.strip() and not section and not formula:
            found += ["::", ""]
            formula = True
        found.append(line if formula else line.replace("|", r"\|"))
    lines[:] = found


def skips_alias(*about: Any) -> bool | None:
    """Leave the fields of named tuples to their signature and the list of attributes."""
    return True if str(about[3].__doc__).startswith("Alias for field number") else None


def as_code(*about: Any) -> tuple[str, str | None] | None:
    """Write a default that is made anew for each object as code, without which no signature can be read."""
    signature, returns = about[-2:]
    return (signature.replace("<factory>", "..."), returns) if signature else None


def setup(app: "Sphinx") -> None:
    """Join in where the pages are found, read and linked."""
    app.connect("builder-inited", write_api)
    app.connect("autodoc-process-docstring", own_words, priority=90)
    app.connect("autodoc-process-docstring", as_rest, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", skips_alias)
    app.connect("autodoc-process-signature", as_code)
    app.connect("missing-reference", to_public)
