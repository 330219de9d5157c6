"""What can be done with a model: which units it has and how they are measured, whether they can be cut out, saved, and
opened again by skilloc and by plain transformers. Everything is tried, and compared in logits, not looked up."""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from skilloc.ablation import routes_of
from skilloc.experiment import Experiment, hold, zero_reference
from skilloc.masks import Mask
from skilloc.models.cutting import key_groups
from skilloc.models.language import Opened, open_model
from skilloc.models.makers import face_of, save_model, units_of
from skilloc.models.points import hooks_of_users
from skilloc.models.saving import Shape
from skilloc.pruning import prune, remaining
from skilloc.tasks import Examples
from skilloc.units import EXPERT, HEAD, LAYER, NEURON, RESIDUAL

CUT = (NEURON, HEAD, RESIDUAL)
"""Kinds that can be cut out of a decoder, where its make allows it."""

WORDS = {NEURON: "neurons", HEAD: "heads", EXPERT: "experts", RESIDUAL: "residual dimensions", LAYER: "whole layers"}

SHAPES: tuple[Shape, ...] = ("as it is", "padded")

ROWS, TOKENS = 4, 12


@dataclass(frozen=True)
class Line:
    """One thing that was tried.

    Attributes:
        what: it was.
        works: whether it does.
        said: how, or why not, in words.
        difference: the largest difference in logits, where two models were compared.
    """

    what: str
    works: bool
    said: str
    difference: float | None = None


def check(opened: Opened, *, seed: int = 0) -> Iterator[Line]:
    """Try what can be done with a language model, and tell each thing when it is known.

    Args:
        opened: the model; it is left as it was.
        seed: of the random tokens that it is tried on.
    """
    face = face_of(opened.model)
    count = sum(parameter.numel() for parameter in opened.model.parameters())
    yield Line("opens", True, f"{face.architecture}, {face.depth} layers, {count:,} weights")
    if hooks := hooks_of_users(opened.model):
        yield Line("hooks of your own", True, f"honoured, by whole passes: {', '.join(hooks)}")
    examples = tokens_for(opened.model, seed=seed)
    there = {bank.kind for bank in face.banks()}
    for kind in [kind for kind in (NEURON, HEAD, EXPERT, RESIDUAL, LAYER) if kind in there]:
        yield _tried(f"{WORDS[kind]} measured", lambda kind=kind: _measured(opened.model, kind, examples))  # type: ignore[misc]
    if opened.tokenizer is None:
        return
    yield _tried("saved as it is", lambda: _saved(opened, opened.model, examples, "as it is"))
    for kind in [kind for kind in CUT if kind in there]:
        cut: list[nn.Module] = []
        yield _tried(f"{WORDS[kind]} cut out", lambda kind=kind, cut=cut: _cut(opened.model, kind, examples, cut))  # type: ignore[misc]
        if cut:
            for shape in SHAPES:
                what = f"without some {WORDS[kind]}, saved {shape}"
                yield _tried(what, lambda cut=cut, shape=shape: _saved(opened, cut[0], examples, shape))  # type: ignore[misc]


def tokens_for(model: nn.Module, *, seed: int, rows: int = ROWS) -> Examples:
    """Return random tokens that a decoder can be tried on."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(min(face_of(model).widest, 1000), (rows, TOKENS), generator=generator)
    return Examples(tokens, tokens.roll(-1, dims=1))


def _tried(what: str, trial: Callable[[], tuple[bool, str, float | None]]) -> Line:
    try:
        return Line(what, *trial())
    except (ValueError, NotImplementedError, RuntimeError) as error:
        return Line(what, False, " ".join(str(error).split()))


def _measured(model: nn.Module, kind: str, examples: Examples) -> tuple[bool, str, None]:
    experiment = Experiment(model, {"random tokens": examples}, kinds=(kind,), folds=1)
    counts = Counter(routes_of(experiment).values())
    ways = ", ".join(f"{way} on {count}" for way, count in sorted(counts.items()))
    return True, f"{len(experiment.units):,}, by way: {ways}", None


def _cut(model: nn.Module, kind: str, examples: Examples, into: list[nn.Module]) -> tuple[bool, str, float]:
    units = units_of(model, kinds=(kind,))
    keep = np.ones(len(units), dtype=bool)
    for bank in units.banks:
        start = units.span(bank.name).start
        # A key that several heads share goes only when all of them go.
        keep[start : start + (bank.width // key_groups(model, bank.name) if kind == HEAD else 1)] = False
    mask = Mask(units, keep)
    smaller = prune(model, mask)
    with hold(model, mask, zero_reference(units)):
        wanted = _logits(model, examples)
    into.append(smaller)
    gone = int((~remaining(model, mask)).sum())
    return True, f"{gone} of {len(units):,}", _apart(_logits(smaller, examples), wanted)


def _saved(opened: Opened, model: nn.Module, examples: Examples, shape: Shape) -> tuple[bool, str, float]:
    wanted = _logits(model, examples)
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "model"
        save_model(model, folder, tokenizer=opened.tokenizer, shape=shape)
        again = _apart(_logits(open_model(folder).model, examples), wanted)
        try:
            plain = _apart(_plain(folder, examples), wanted)
        except (ValueError, RuntimeError, OSError) as error:
            if shape != "as it is":
                raise
            said = str(error).strip().partition("\n")[0][:80]
            return True, f"skilloc opens it, plain transformers refuses it ({said}); save it padded for that", again
    return True, "skilloc and plain transformers open it", max(again, plain)


@torch.no_grad()
def _logits(model: nn.Module, examples: Examples) -> Tensor:
    return face_of(model).run(examples.to(next(model.parameters()).device).inputs).float().cpu()


@torch.no_grad()
def _plain(folder: Path, examples: Examples) -> Tensor:
    from skilloc.models.reading import read_plain

    logits: Tensor = read_plain(folder)(input_ids=examples.first, use_cache=False).logits
    return logits.float()


def _apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
