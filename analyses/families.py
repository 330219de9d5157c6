"""On which families of language models does all of this work, and are the numbers those of plain transformers?

For tiny random models of over 50 families of decoders: the exact effects of units of every kind beside plain
transformers with hooks of torch on its own modules (of experts: with their weights zeroed); the route by which they
were measured; attribution beside the derivative by finite differences; pruning beside holding, saved and opened again
by skilloc and by plain transformers; localizing and relearning for a few steps. What cannot be done is said in one
sentence.

An answer is a table without a traceback, with effects within 1e-5 of the largest, on the fast route. Minutes on two
cores: ten for `--scale cpu` (all families), one for `--scale quick` (five). It writes `docs/families.md` beside the
figure.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from _families import FAMILIES, make
from _frame import Cells, analyse
from skilloc.ablation import ablation_effects, routes_of
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment, losses
from skilloc.experiment.axes import by_unit
from skilloc.lasso import LocalizeConfig, localize
from skilloc.masks import Mask
from skilloc.models.language import open_model
from skilloc.models.makers import face_of, save_model, units_of
from skilloc.models.places import paths_of
from skilloc.models.reading import read_plain
from skilloc.models.saving import Shape
from skilloc.pruning import prune
from skilloc.relearning import Grid, relearn_controls, relearn_probe
from skilloc.study.checking import tokens_for
from skilloc.tasks import Examples, Subtask
from skilloc.training import TrainConfig
from skilloc.units import EXPERT, HEAD, LAYER, NEURON, RESIDUAL, Bank

SCALES = {
    "quick": ("GPT-2", "Llama, tied", "Gemma 2", "OPT", "Mixtral"),
    "cpu": tuple(FAMILIES),
    "paper": tuple(FAMILIES),
}
KINDS = (NEURON, HEAD, EXPERT, RESIDUAL, LAYER)
EACH = 2
"""Units that are compared per bank."""

STEPS = (2e-3, 4e-4)
"""Of finite differences; the nearer one counts, for a router may choose other experts within a step."""

COLUMNS = (*(f"effects of {kind}s" for kind in KINDS), "attribution", "prune", "save", "localize", "relearn")

Found = dict[str, Any]


def measure(families: tuple[str, ...], run: Cells) -> dict[str, Any]:
    """Try every family."""
    return {"families": {name: try_family(name) for name in tqdm(families, desc="families", disable=None)}}


def try_family(name: str) -> Found:
    """Try one family."""
    with tempfile.TemporaryDirectory() as home:
        make(name, Path(home) / "model")
        try:
            opened = open_model(Path(home) / "model")
        except ValueError as error:
            return {"opens": _no(error)}
        row: Found = {"opens": {"works": True}}
        stock = read_plain(Path(home) / "model")
        examples = tokens_for(opened.model, seed=0)
        for kind in KINDS:
            if kind in {bank.kind for bank in face_of(opened.model).banks()}:
                row[f"effects of {kind}s"] = _tried(partial(_effects, opened.model, stock, kind, examples))
        for what, trial in _rest(opened, examples, Path(home)).items():
            row[what] = _tried(trial)
        return row


def _rest(opened: Any, examples: Examples, home: Path) -> dict[str, Callable[[], Found]]:
    return {
        "attribution": lambda: _attribution(opened.model, examples),
        "prune": lambda: _prune(opened, examples, home / "pruned"),
        "save": lambda: _save(opened, opened.model, examples, home / "saved", "as it is"),
        "localize": lambda: _localize(opened.model),
        "relearn": lambda: _relearn(opened.model),
    }


def _tried(trial: Callable[[], Found]) -> Found:
    try:
        return {"works": True, **trial()}
    except Exception as error:  # a traceback is what this table is there to show
        return _no(error)


def _no(error: Exception) -> Found:
    users = isinstance(error, ValueError)
    return {"works": False, "said": " ".join(str(error).split()), "traceback": None if users else type(error).__name__}


def _effects(model: nn.Module, stock: nn.Module, kind: str, examples: Examples) -> Found:
    """Compare the exact effects of some units of each bank with plain transformers."""
    experiment = Experiment(model, {"random": examples}, kinds=(kind,), folds=1)
    select = np.zeros(len(experiment.units), dtype=bool)
    for span in map(experiment.units.span, experiment.units.hooks):
        select[np.linspace(span.start, span.stop - 1, EACH).astype(int)] = True
    found = ablation_effects(experiment, select=select).values[0, 0]
    base, apart = _plain_loss(stock, examples), 0.0
    for unit in np.flatnonzero(select):
        hook, place = experiment.units.locate(int(unit))
        wanted = _without(model, stock, experiment.units.bank(hook), place, examples) - base
        apart = max(apart, abs(wanted - float(found[unit])))
    ways = sorted(set(routes_of(experiment).values()))
    return {"apart": apart, "largest": float(np.nanmax(np.abs(found))), "ways": ways}


def _plain_loss(stock: Any, examples: Examples) -> float:
    with torch.no_grad():
        logits = stock(input_ids=examples.first, use_cache=False).logits.double()
    return float(nn.functional.cross_entropy(logits.flatten(0, 1), examples.targets.flatten()))


def _without(model: nn.Module, stock: nn.Module, bank: Bank, place: int, examples: Examples) -> float:
    """Return the loss of plain transformers without a unit."""
    modules, handles = dict(stock.named_modules()), []
    if bank.kind == EXPERT:
        return _without_expert(modules[_path(model, modules, bank.name)[0]], place, stock, examples)
    for hook in bank.places:
        path, side = _path(model, modules, hook)
        width = bank.width if bank.axis == -2 else None
        edit = _zeroing(place, width, whole=bank.axis is None)
        if side == "in":
            handles.append(modules[path].register_forward_pre_hook(_before(edit)))
        else:
            handles.append(modules[path].register_forward_hook(_after(edit)))
    try:
        return _plain_loss(stock, examples)
    finally:
        for handle in handles:
            handle.remove()


def _path(model: nn.Module, modules: dict[str, Any], hook: str) -> tuple[str, str]:
    paths, side = paths_of(model, hook)
    return next(path for path in paths if path in modules), side


def _without_expert(experts: Any, place: int, stock: Any, examples: Examples) -> float:
    weight = experts.down_proj
    with torch.no_grad():
        before = weight[place].clone()
        weight[place] = 0
    try:
        return _plain_loss(stock, examples)
    finally:
        with torch.no_grad():
            weight[place] = before


def _zeroing(place: int, heads: int | None, *, whole: bool) -> Callable[[Tensor], Tensor]:
    def zero(value: Tensor) -> Tensor:
        if whole:
            return torch.zeros_like(value)
        size = 1 if heads is None else value.shape[-1] // heads
        changed = value.clone()
        changed[..., place * size : (place + 1) * size] = 0
        return changed

    return zero


def _before(edit: Callable[[Tensor], Tensor]) -> Any:
    return lambda _, args: (edit(args[0]), *args[1:])


def _after(edit: Callable[[Tensor], Tensor]) -> Any:
    def after(_: nn.Module, args: Any, output: Any) -> Any:
        return type(output)((edit(output[0]), *output[1:])) if isinstance(output, tuple | list) else edit(output)

    return after


def _attribution(model: nn.Module, examples: Examples) -> Found:
    """Compare the estimate of one unit per bank with the derivative of fading it, by finite differences."""
    experiment = Experiment(model, {"random": examples}, folds=1)
    estimate = attribution_effects(experiment, curvature=0).values[0, 0]
    apart = 0.0
    for bank in experiment.units.banks:
        place = experiment.units.span(bank.name).start

        def faded(by: float, bank: Bank = bank) -> float:
            def edit(value: Tensor) -> Tensor:
                changed = value.clone()
                by_unit(changed, bank)[..., 0, :] *= 1 - by
                return changed

            with face_of(model).attached({bank.name: edit}):
                return float(losses(model, examples).mean())

        slopes = [(faded(step) - faded(-step)) / (2 * step) for step in STEPS]
        apart = max(apart, min(abs(slope - estimate[place]) for slope in slopes))
    return {"apart": apart, "largest": float(np.abs(estimate).max())}


def _prune(opened: Any, examples: Examples, folder: Path) -> Found:
    """Drop a unit of each layer, compare with holding it, and open what was saved with plain transformers."""
    mask = _without_one(opened.model)
    held = Experiment(opened.model, {"random": examples}, units=mask.units, folds=1)
    smaller = prune(opened.model, mask)
    apart = float(np.abs(held.losses(mask) - losses(smaller, examples).numpy()).max())
    saved = _save(opened, smaller, examples, folder, "padded")
    return {"apart": max(apart, saved["apart"])}


def _without_one(model: nn.Module) -> Mask:
    """Return a mask that drops the first neuron of each layer; the first head, where neurons cannot be told apart."""
    units = units_of(model, kinds=(_cuttable(model),))
    keep = np.ones(len(units), dtype=bool)
    keep[[units.span(hook).start for hook in units.hooks]] = False
    return Mask(units, keep)


def _cuttable(model: nn.Module) -> str:
    return NEURON if any(bank.kind == NEURON for bank in face_of(model).banks()) else HEAD


def _save(opened: Any, model: nn.Module, examples: Examples, folder: Path, shape: Shape) -> Found:
    save_model(model, folder, tokenizer=opened.tokenizer, shape=shape)
    with torch.no_grad():
        wanted = face_of(model).run(examples.inputs)
        again = face_of(open_model(folder).model).run(examples.inputs)
        plain = read_plain(folder)(input_ids=examples.first, use_cache=False).logits
    return {"apart": float(torch.maximum((again - wanted).abs().max(), (plain - wanted).abs().max()))}


def _subtask(name: str, seed: int) -> Subtask:
    def sample(n: int, split: str, draw: int) -> Examples:
        generator = torch.Generator().manual_seed(1000 * seed + draw)
        tokens = torch.randint(200, (n, 9), generator=generator)
        return Examples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    return Subtask(name, sample, made={"family": "random tokens", "seed": seed})


def _localize(model: nn.Module) -> Found:
    training = TrainConfig(steps=4, rate=1e-3, evaluate_every=4)
    config = LocalizeConfig(training=training, examples=4, held_out=4, strength=1e-3, kinds=(_cuttable(model),))
    _, history = localize(model, [_subtask("random", 0)], config, seed=0)
    return {"loss": float(history.of("random")[-1])}


def _relearn(model: nn.Module) -> Found:
    smaller = prune(model, _without_one(model))
    controls = relearn_controls(model, smaller, seeds=(0, 1))
    grid = Grid(rates=(1e-3,), budgets=(1, 2), examples=4, held_out=8, folds=2, repair=0)
    found = relearn_probe({**controls, "pruned": smaller}, [_subtask("random", 0)], _subtask("random", 0), grid, (0, 1))
    return {"finite": bool(np.isfinite(found.report).all())}


def draw(found: dict[str, Any]) -> Any:
    """A table: families down, what was tried across; its colour is the largest difference to plain transformers."""
    from skilloc.plots.families import family_table

    if found["scale"] == "cpu":
        (Path(__file__).resolve().parents[1] / "docs" / "families.md").write_text(page(found))
    return family_table(found["families"], COLUMNS)


def page(found: dict[str, Any]) -> str:
    """Return the table as a page of the docs, with every refusal as a sentence below it."""
    columns = [what for what in COLUMNS if any(what in row for row in found["families"].values())]
    lines = ["# Families", "", __doc__.split("\n\n")[1].replace("\n", " "), ""]
    lines += ["| family | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    said: dict[str, list[str]] = {}
    for name, row in found["families"].items():
        cells = []
        for what in columns:
            cell = row.get(what)
            cells.append("" if cell is None else _cell(cell))
            if cell is not None and not cell["works"]:
                said.setdefault(cell["said"], []).append(f"{name} ({what})")
        if not row["opens"]["works"]:
            said.setdefault(row["opens"]["said"], []).append(f"{name} (opens)")
            cells = ["does not open", *[""] * (len(columns) - 1)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Numbers are largest differences. Effects: to plain transformers, in nats; in brackets the way by which they "
        "were measured (after, closed, within and through run only what comes after the unit; whole would be the slow "
        "one). Attribution: to finite differences. Prune: to the held model in nats, and of the saved and padded "
        "model, opened by skilloc and by plain transformers, in logits. Save: the same of the untouched model. "
        "Localize and relearn: four and two steps, with controls. Empty: the family has no such units, or they cannot "
        "be told apart.",
        "",
    ]
    lines += ["What cannot be done, and why:", "", *(f"- {', '.join(where)}: {why}" for why, where in said.items())]
    return "\n".join(lines) + "\n"


def _cell(cell: Found) -> str:
    if not cell["works"]:
        return cell["traceback"] or "refused"
    ways = f" ({', '.join(cell['ways'])})" if "ways" in cell else ""
    return f"{cell['apart']:.0e}{ways}" if "apart" in cell else "yes"


if __name__ == "__main__":
    analyse(__file__, __doc__, scales=SCALES, measure=measure, draw=draw)
