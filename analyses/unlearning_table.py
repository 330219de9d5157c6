"""Does pruning for one text make a language model unlearn others, at equal loss on that text?

Question (the paper's table on unlearning, claim 10): a model keeps Python without 30, 63 or 80 % of its neurons: those
drawn at random, those with the least attribution, or those that group lasso made zero. The paper compared them broken,
without recovery, at unequal losses on what is kept, with unequal tuning. Here all are finetuned for as long (with the
penalty for group lasso only), pruned, and recovered for as long, at one rate for each share, chosen on the selection
split by runs of all ways alike; and they are compared where each first comes below the loss on what is kept at which
the worst of them ends. An answer: for each forget set, the loss at that point before and after every way of attack,
beside the original, plain finetuning with the same recovery (`base`), and a model that never saw the set, cut to the
candidate's size; information removed with its interval over seeds, and a verdict, or "not comparable" and why.
`--forget FILE` takes somebody's own questions instead, of the form of WMDP (question, choices, answer) or of TOFU
(question, answer).

Minutes: about one of one core for `--scale quick`; perhaps 100 core minutes for `cpu` (the embedded model; a forecast
from single cells, timed on a busy machine; not run yet). `smollm2` adds facts by relation and made behaviours, which no
model was trained without, and `paper` is Llama-3.2-1B on GitHub Python; both for one GPU under torchrun, not run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from _finetuning import Finetuned, finetune, finetuned_model
from _forgetting import Attack, Forget, Kind, attacked, forgotten, sibling, why_not, without
from _frame import Cells, analyse
from _narrow import Criterion, Text, Training, experiment_on, held_out, least_dropped, opened_text, recovered, scores_of
from _tuning import Rungs, Tried, halve
from _unlearned import draw, row_of
from skilloc import store
from skilloc.experiment import losses
from skilloc.masks import Mask
from skilloc.pruning import prune
from skilloc.relearning import NEVER, ORIGINAL, UNSEEN
from skilloc.relearning.controls import cut_alike, untrained
from skilloc.store import Labelled

BASE, RANDOM, ATTRIBUTION, LASSO = "base", "random", "attribution", "group lasso"
WAYS: dict[str, Criterion] = {BASE: "random", RANDOM: "random", ATTRIBUTION: "attribution", LASSO: "weight norm"}
"""By what units are ranked, least first. Base drops none; what group lasso has made zero has no norm."""

LOOKS = (1, 2, 4, 8, 12, 16, 24, 32, 40, 48, 64, 80, 96)
"""Steps of recovery after which losses are measured; close together, since ways are compared at looks."""

RUNGS = Rungs((2,), (1,))
"""Of recovery, two rates are tried, on one seed."""

Arm = tuple[str, float]
"""A way, and the share of the units that it drops."""


@dataclass(frozen=True)
class Pruned:
    """The spec of a cell: a finetuned model without a share of its units, recovered on its text."""

    text: Text
    training: Training
    finetuned: str
    """key of the finetuned model among the results"""
    way: str
    sparsity: float
    """share of the units that are dropped"""
    seed: int = 0
    """of scoring and of the training examples"""


@dataclass(frozen=True)
class Attacked:
    """The spec of a cell: such a model, recovered up to a loss on what is kept, and attacked with every forget set."""

    pruned: Pruned
    forget: tuple[tuple[Kind, str, str], ...]
    """as `Forget`"""
    attack: Attack


@dataclass(frozen=True)
class Scale:
    """Which model, how it is narrowed, and what it is attacked with."""

    sets: tuple[Forget, ...]
    finetuned: Finetuned = field(default_factory=lambda: Finetuned(Text(length=48, scored=32, held_out=48), 0.0, 500))
    training: Training = field(default_factory=lambda: Training(96, looks=LOOKS))
    strength: float = 5e-3
    """first strength of the penalty, which is steered to each sparsity"""
    sparsities: tuple[float, ...] = (0.3, 0.63, 0.8)
    attack: Attack = field(default_factory=Attack)
    seeds: int = 3
    rates: tuple[float, ...] = (5e-4, 2e-3)
    """of recovery, to choose from"""
    forget: str = field(
        default="", metadata={"flag": "file of questions to forget instead, with choices (WMDP) or without (TOFU)"}
    )


ENGLISH, CPP = Forget("corpus", "english", without("english")), Forget("corpus", "cpp", without("cpp"))
MADE = tuple(Forget("behaviour", name) for name in ("induction", "indirect", "arguments"))
FACTS = tuple(Forget("relation", name) for name in ("continent", "capital", "official language"))
HUB = Text("NousResearch/Llama-3.2-1B", "hub:codeparrot/github-code#code", 512, scored=1024, held_out=512)
LONG = Attack((1e-5, 5e-5, 2e-4), (1, 4, 16, 64, 256), 16, 96, repair=64, repair_rate=5e-5)
SCALES = {
    "quick": Scale(
        (ENGLISH, CPP),
        Finetuned(Text(length=16, scored=8, held_out=8), 0.0, steps=4, examples=4),
        Training(4, examples=4, looks=(1, 2, 4)),
        sparsities=(0.5,),
        attack=Attack((1e-3,), (1, 2), 2, 8, 2, repair=2, plain=True),
        seeds=2,
        rates=(1e-3, 4e-3),
    ),
    "cpu": Scale((ENGLISH, CPP), attack=Attack(spare=True)),
    "smollm2": Scale(
        (Forget("corpus", "english"), Forget("corpus", "cpp"), *FACTS, *MADE),
        Finetuned(Text("smollm2", length=128, held_out=64), 0.0, steps=1000, rate=5e-5),
        Training(400, looks=(*LOOKS, 128, 160, 200, 256, 320, 400)),
        attack=LONG,
        rates=(1e-4, 4e-4),
    ),
    "paper": Scale(
        (Forget("corpus", "english"), Forget("corpus", "cpp"), *FACTS, *MADE),
        Finetuned(HUB, 0.0, steps=70_000, rate=2e-6, examples=108, products="bfloat16"),
        Training(10_000, 1e-3, 64, (*LOOKS, 256, 512, 1000, 2000, 5000, 10_000), "bfloat16"),
        strength=1e-3,
        attack=LONG,
        rates=(5e-5, 1e-4),
    ),
}


def recover(settings: Pruned, results: Path) -> dict[str, Any]:
    """Return held-out losses along the recovery of a pruned model, and how many units were kept of how many."""
    _, mask, path = _recovered(settings, results)
    return {"path": path, "kept": int(mask.keep.sum()), "units": len(mask.units)}


def _recovered(settings: Pruned, results: Path) -> tuple[Any, Mask, dict[str, list[float]]]:
    model, _ = finetuned_model(settings.text, results, settings.finetuned)
    experiment = experiment_on(settings.text, seed=settings.seed, model=model)
    scores = scores_of(experiment, WAYS[settings.way], seed=settings.seed)
    mask = least_dropped(experiment.units, scores, settings.sparsity)
    model, path = recovered(model, mask, settings.text, settings.training, seed=settings.seed)
    return model, mask, path


def attack(settings: Attacked, results: Path) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Recover a pruned model, cut its units out, and attack it beside the original and a model that never saw the set.

    Where there is no such model, nothing is comparable: one with fresh weights stands in, in the original's shape, so
    that it is attacked once.

    Returns:
        The step of recovery; losses on what is kept; and by forget set the losses before the attack, and the record of
        a `Relearning` with its arrays (one seed).
    """
    own = settings.pruned
    opened, kept = opened_text(own.text)
    model, mask, path = _recovered(own, results)
    candidate = prune(model.eval(), mask)
    report = held_out(kept, own.text)["report"]
    metrics: dict[str, Any] = {"step": path["step"][-1], "sets": {}}
    metrics["kept"] = [float(losses(one, report).mean()) for one in (candidate, opened.model)]
    arrays: dict[str, Labelled] = {}
    for forget in map(Forget._make, settings.forget):
        models = {ORIGINAL: opened.model, own.way: candidate}
        if forget.never:
            models[UNSEEN] = cut_alike(sibling(forget.never), candidate, [kept])
        else:
            models[NEVER] = untrained(opened.model, seed=own.seed)
        removed = forgotten(own.text, forget)
        out = results / "attacks"  # what several candidates stand beside is attacked once
        found, before = attacked(models, removed, kept, settings.attack.on(forget), seed=own.seed, out=out)
        relearning, more = store.to_parts(found)
        arrays |= {f"{forget.name}/{key}": value for key, value in more.items()}
        metrics["sets"][forget.name] = {"before": before, "relearning": relearning}
    return metrics, arrays


def at_equal_loss(paths: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[float, dict[str, float]]:
    """Return the loss at which the worst way ends, and the step of the first look at which each is below it.

    Both on the selection split. The worst way itself is taken where it ends, unless it was below that on the way.

    Args:
        paths: losses along the recovery, by way.
    """
    bar = max(path["selection"][-1] for path in paths.values())
    steps = {}
    for way, path in paths.items():
        below = np.flatnonzero(np.array(path["selection"]) < bar)
        steps[way] = path["step"][below[0] if len(below) else -1]
    return bar, steps


def measure(scale: Scale, run: Cells) -> dict[str, Any]:
    """Choose a rate of recovery for each sparsity, recover all ways with it, and attack them at equal loss."""
    arms: list[Arm] = [(BASE, 0.0), *((way, share) for share, way in product(scale.sparsities, list(WAYS)[1:]))]
    drawn = {share: [(share, rate) for rate in scale.rates] for share in (0.0, *scale.sparsities)}
    best, spent = halve(drawn, partial(_tried, scale, run, arms), RUNGS)
    seeds = range(scale.seeds)
    asked = [(arm, best[arm[1]][1], seed) for seed in seeds for arm in arms]
    pruned = dict(zip(product(seeds, arms), _pruned(scale, run, asked), strict=True))
    paths = dict(zip(pruned, (one.metrics["path"] for one in run(recover, pruned.values())), strict=True))
    bars: dict[tuple[int, float], float] = {}
    for seed, share in product(seeds, scale.sparsities):
        bars[seed, share], _ = at_equal_loss({way: paths[seed, (way, share)] for way in list(WAYS)[1:]})
    sets = (Forget("questions", scale.forget),) if scale.forget else scale.sets
    until = [replace(one.training, until=bars.get((one.seed, one.sparsity))) for one in pruned.values()]
    ends = [replace(one, training=own) for one, own in zip(pruned.values(), until, strict=True)]
    specs = [Attacked(one, sets, scale.attack) for one in ends]
    cells = dict(zip(pruned, run(attack, specs), strict=True))
    rows = []
    for way, share in arms:
        level = [other for other, its in arms if its == share]
        every = {other: [cells[seed, (other, share)] for seed in seeds] for other in level}
        rows.append(row_of((way, share), every, {one.name: why_not(one) for one in sets}))
    return {
        "settings": asdict(scale),
        "rates": {str(share): rate for share, rate in best.values()},
        "spent": {str(share): one.record() for share, one in spent.items()},
        "seeds": scale.seeds,
        "keeps": scale.finetuned.text.source,
        "sets": [one.name for one in sets],
        "paths": [{"way": arm[0], "sparsity": arm[1], "seed": seed, **path} for (seed, arm), path in paths.items()],
        "rows": rows,
    }


def _pruned(scale: Scale, run: Cells, asked: Sequence[tuple[Arm, float, int]]) -> list[Pruned]:
    """Finetune what each arm begins with, on its seed, and return the cells that prune it and recover at a rate."""
    begun = []
    for (way, share), _, seed in asked:
        plain = replace(scale.finetuned, seed=seed)
        begun.append(replace(plain, strength=scale.strength, sparsity=share) if way == LASSO else plain)
    specs = list(dict.fromkeys(begun))
    keys = dict(zip(specs, (store.key(one.spec) for one in run(finetune, specs)), strict=True))
    return [
        Pruned(one.text, replace(scale.training, rate=rate), keys[one], *arm, seed)
        for (arm, rate, seed), one in zip(asked, begun, strict=True)
    ]


def _tried(
    scale: Scale, run: Cells, arms: Sequence[Arm], asked: Sequence[tuple[tuple[float, float], int]]
) -> list[Tried]:
    """Score rates by the mean loss at which the ways at a sparsity end."""
    every = [[(arm, rate, seed) for arm in arms if arm[1] == share] for (share, rate), seed in asked]
    found = iter(run(recover, _pruned(scale, run, [one for some in every for one in some])))
    tried = []
    for some in every:
        ends = [next(found).metrics["path"]["selection"][-1] for _ in some]
        steps = len(some) * scale.training.steps
        tried.append(Tried(float(np.mean(ends)), steps, steps * scale.training.examples, 0.0))
    return tried


if __name__ == "__main__":
    analyse(__file__, __doc__ or "", scales=SCALES, measure=measure, draw=draw)
