"""Hand a narrow model over: a folder for plain transformers, opened again, compared and timed before it is there."""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from skilloc import store
from skilloc.locality.intervals import Interval, mean_interval
from skilloc.mistakes import Mistake, WrongValue
from skilloc.models.encoded import apart, tolerance
from skilloc.models.gguf_file import FILE, check_gguf, write_gguf
from skilloc.models.language import Opened, context_length, digest
from skilloc.models.makers import face_of, save_model
from skilloc.models.reading import read_gguf, read_plain
from skilloc.models.saving import plain_shape
from skilloc.models.unwrapped import plain
from skilloc.pruning.handed import HandedOver, Judged, Latency, Made, Written
from skilloc.pruning.reading import load_localized, load_pruned
from skilloc.pruning.results import Localized, Parameters, Pruned
from skilloc.relearning import CONTROLS, Relearning, tell
from skilloc.store.aside import MANIFEST
from skilloc.units import LAYER

TIMED = (1, 128)
"""Tokens of the passes that are timed: about a step of generation, and about a prompt."""

PASSES = 9
"""Passes of each model, in turn."""

CARD, REQUEST = "README.md", "handed.json"

MAKERS: dict[str, Callable[[Path], Pruned | Localized]] = {"report": load_pruned, "history": load_localized}
"""The part of a folder that tells how a model was made, and what reads it."""


@dataclass(frozen=True)
class Past:
    """Where it is told how a model was made, and what became of attacks on it.

    Attributes:
        steps: folders of `skilloc localize` and `skilloc prune`, in the order in which they made it.
        attacks: folders of `skilloc relearn` in which it was attacked.
    """

    steps: Sequence[Path]
    attacks: Sequence[Path] = ()


def hand_over(
    original: Opened,
    narrow: Opened,
    past: Past,
    out: Path,
    *,
    card: Callable[[HandedOver], str],
    gguf: bool = False,
) -> HandedOver:
    """Write a narrow model as a folder that plain transformers opens, with a card; whole or not at all.

    What lies there already of the same request, whole, is left as it is; only its passes are timed again.

    Args:
        original: the model before anything was done to it.
        narrow: the model that is handed over.
        past: where it is told how it was made, and what attacks found.
        out: a new folder.
        card: from what is known about the model, the text of its card.
        gguf: whether to write a GGUF file too, where there is one for such a model.

    Raises:
        FileExistsError: if there is something else in the folder already.
        ValueError: if the model is no language model, was not made of the original in these steps, was not attacked
            there, or would compute something else when plain transformers opens it.
    """
    there = out.exists() and not (out.is_dir() and not any(out.iterdir()))
    if there and not (out / REQUEST).is_file():
        raise FileExistsError(f"`out` {out} is there already; choose a new folder")
    if narrow.tokenizer is None:
        raise WrongValue(f'"{narrow.name}" is an MLP, for which transformers has no class; hand its folder over')
    made = _made(original, narrow, past.steps)
    judged = tuple(one for folder in past.attacks for one in _judged(folder, narrow))
    asked = _asked(original, made, judged, gguf=gguf)
    if there:
        store.check_manifest(out, "choose a new folder")
        if store.read_json(out / REQUEST) != asked:
            raise FileExistsError(f"`out` {out} holds another model, or one with another card; choose a new folder")
    with nullcontext(out) if there else store.placed(out) as aside:
        if not there:
            save_model(narrow.model, aside, tokenizer=narrow.tokenizer, shape=plain_shape(narrow.model))
        opened = read_plain(aside)
        difference = apart(narrow.model, lambda tokens: opened(tokens.cpu(), use_cache=False).logits)
        if not difference <= tolerance(narrow.model):
            raise WrongValue(f"`model` is another in plain transformers (logits differ by {difference:.1g}); hold it")
        written = _gguf(opened, narrow, aside, original.name) if gguf else None
        rest = _found(original, narrow, opened, made, judged)
        found = HandedOver(**rest, difference=difference, gguf=written, bytes=_bytes(original, aside))
        if not there:
            (aside / MANIFEST).unlink()  # of the folder without the GGUF file
            store.write_json(aside / REQUEST, asked)
            store.write_manifest(aside)
            (aside / CARD).write_text(card(found), encoding="utf-8")  # not in the manifest: its owner may write on it
    return found


def _asked(original: Opened, made: tuple[Made, ...], judged: tuple[Judged, ...], *, gguf: bool) -> dict[str, Any]:
    """Return what names a folder that is handed over. JSON only."""
    steps = [{"settings": dict(one.settings), "model": one.found.model} for one in made]
    said = [[one.attacked, one.word, *one.sentences] for one in judged]
    return {"original": digest(original.model), "steps": steps, "attacks": said, "gguf": gguf}


def _found(
    original: Opened, narrow: Opened, opened: Any, made: tuple[Made, ...], judged: tuple[Judged, ...]
) -> dict[str, Any]:
    whole, like = plain(original.model), next(original.model.parameters())
    units = _units(original.model), _units(narrow.model)
    return {
        "name": original.name,
        "original": digest(original.model),
        "model": digest(narrow.model),
        "kind": type(opened).__name__,
        "made": made,
        "units": {kind: (count, units[1].get(kind, 0)) for kind, count in units[0].items()},
        "parameters": Parameters(_parameters(whole), _parameters(plain(narrow.model))),
        "stored": _parameters(opened),
        "latency": _latency(whole, opened.to(like.device, like.dtype), context_length(original.model)),
        "place": f"{like.device}, {str(like.dtype).removeprefix('torch.')}",
        "verdicts": judged,
        "versions": {name: version(name) for name in ("skilloc", "transformers", "torch")},
    }


def _made(original: Opened, narrow: Opened, steps: Sequence[Path]) -> tuple[Made, ...]:
    """Read the steps, each of which must start from what the one before left."""
    found: list[Made] = []
    left = digest(original.model)
    for folder in steps:
        part = next((part for part in MAKERS if store.is_complete(folder / part)), None)
        if part is None:
            raise WrongValue(f'"{folder}" tells of no model; name a folder of `skilloc prune` or `skilloc localize`')
        spec, result = store.read(folder / part).spec, MAKERS[part](folder)
        if spec["model"] != left:
            raise WrongValue(
                f'"{folder}" was not made of {"the original" if not found else "what the step before left"}; name the '
                "original, and the folders in the order in which they were made"
            )
        found.append(Made(spec["settings"], result))
        left = result.model
    if digest(narrow.model) != left:
        raise WrongValue(f'"{narrow.name}" is not the model that the last step left; make it again')
    return tuple(found)


def _judged(folder: Path, narrow: Opened) -> list[Judged]:
    """Read what an attack says about the model, under whatever name it was attacked."""
    asked = store.read(folder / "request").spec if store.is_complete(folder / "request") else {}
    models, own = asked["model"] if asked.get("what") == "relearning study" else {}, digest(narrow.model)
    names = [name for name, one in models.items() if one == own and name not in CONTROLS]
    names = [name for name in names if store.is_complete(folder / name)]
    if not names:
        raise WrongValue(f'"{folder}" holds no attack on this model; name a folder of `skilloc relearn ORIGINAL MODEL`')
    found = []
    for name in names:
        told = tell(store.load(Relearning, folder / name))
        found.append(Judged(told.report or "", told.verdicts[name].word, tuple(told.summary.split("\n"))))
    return found


def _gguf(opened: Any, narrow: Opened, folder: Path, name: str) -> Written:
    """Write a GGUF file, unless it is there, and read it again; where there is none for such a model, say why."""
    path = folder / FILE
    try:
        check_gguf(opened, narrow.tokenizer)
        if not path.is_file():
            write_gguf(opened, narrow.tokenizer, path, name=f"narrow {name}")
        again = read_gguf(path, dtype=torch.float32).model
    except Mistake as why:
        path.unlink(missing_ok=True)
        return Written(0, float("nan"), str(why))
    off = apart(narrow.model, lambda tokens: again(tokens.cpu(), use_cache=False).logits)
    if not off <= tolerance(narrow.model):
        path.unlink()
        return Written(0, off, "transformers reads other logits from it")
    return Written(path.stat().st_size, off)


@torch.no_grad()
def _latency(before: nn.Module, after: nn.Module, longest: int) -> tuple[Latency, ...]:
    """Time passes of two models in turn, so that what else the machine does meets both."""
    found, device = [], next(before.parameters()).device
    for tokens in sorted({min(count, longest) for count in TIMED}):
        inputs = torch.zeros(1, tokens, dtype=torch.long, device=device)
        runs = [partial(model, inputs, use_cache=False) for model in (before, after)]
        for run in runs:
            run()  # the first of a shape takes its kernels as well
        times = np.array([[_seconds(run) for run in runs] for _ in range(PASSES)]) * 1e3
        ratio = mean_interval(np.log(times[:, 1] / times[:, 0]))
        middle = np.median(times, axis=0)
        ends = (float(np.exp(end)) for end in (ratio.value, ratio.low, ratio.high))
        found.append(Latency(tokens, float(middle[0]), float(middle[1]), Interval(*ends)))
    return tuple(found)


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run().logits[0, -1, 0].item()  # which waits for a device that works on its own
    return time.perf_counter() - start


def _bytes(original: Opened, folder: Path) -> Parameters:
    size = next(original.model.parameters()).element_size()
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return Parameters(_parameters(plain(original.model)) * size, stored)


def _units(model: nn.Module) -> dict[str, int]:
    found: dict[str, int] = {}
    for bank in face_of(model).banks():
        if bank.kind != LAYER:
            found[bank.kind] = found.get(bank.kind, 0) + bank.width
    return found


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
