"""A language model that keeps some corpora and loses others: pruned in two ways, then attacked beside controls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    from torch import nn

    from skilloc.models.language import Opened
    from skilloc.store import Labelled
    from skilloc.tasks import Examples, Subtask

LASSO, NAIVE = "group lasso", "naive pruning"
"""The two candidates."""


@dataclass(frozen=True)
class EmbeddedUnlearning:
    """The spec of one cell: what is kept and removed, how it is localized, and the attack."""

    kept: tuple[str, ...] = ("python",)
    """sources of the corpora that are kept, one subtask each"""
    removed: tuple[str, ...] = ("cpp", "english")
    """sources of the corpora that are removed, together one subtask"""
    seed: int = 0
    """of the finetuning, the random mask, initial values and the attack"""
    model: str = "embedded"
    """any language model that `open_model` knows"""
    length: int = 48
    """tokens per example"""
    rows: int = 8
    """examples per step, of all kept corpora together"""
    steps: int = 400
    """steps of localizing, and of plain finetuning beside it"""
    lr: float = 1e-3
    """their rate"""
    strength: float = 5e-3
    """first strength of the penalty"""
    extra_loss: float = 0.35
    """nats above the original's loss on the kept corpora, to which the strength is steered"""
    rates: tuple[float, ...] = (2e-4, 7e-4, 2.5e-3)
    """rates of the attack"""
    budgets: tuple[int, ...] = (1, 4, 16, 32)
    """its numbers of steps"""
    attack_rows: int = 4
    """its examples per step"""
    held_out: int = 32
    """examples per subtask, on each of the selection and the report split"""
    folds: int = 8
    """disjoint parts of these"""
    repair: int = 64
    """steps of repair on the kept corpora, at most"""
    repair_rate: float = 5e-4
    """their rate"""

    def __post_init__(self) -> None:
        if not self.kept or not self.removed or set(self.kept) & set(self.removed):
            raise ValueError(
                f"`kept` is {self.kept} and `removed` {self.removed}; name at least one source of each, and none twice"
            )
        for name in ("rows", "steps", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; use at least 1")
        if self.extra_loss <= 0:
            raise ValueError(f"`extra_loss` is {self.extra_loss}; use a positive number of nats")


def unlearn(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Prune a model in two ways so that it keeps some corpora, and attack it with the others.

    1. Group lasso: finetuned on the kept corpora with the penalty steered to their original loss + `extra_loss`; units
       that are then zero are cut out.
    2. Naive pruning: of the original, the units with the least attributed effect on the kept corpora (on training
       text), as many as the same loss allows (on the selection split).

    Controls: the original; plain finetuning for as many steps; for naive pruning a random mask of its size and layers;
    and a never-trained network of the lasso's shape. One that never saw the removed corpora would have to be trained
    from scratch, and is missing.

    Args:
        spec: the fields of `EmbeddedUnlearning`.

    Returns:
        Losses of all models on all corpora in nats, their units, the history of localizing, and the record of a
        `Relearning` with its arrays (one seed; see `over_seeds`).
    """
    # Late: `skilloc sweep list` reads this file, and must not wait for torch.
    from skilloc.intervene import losses
    from skilloc.masks import Mask
    from skilloc.models.makers import units_of
    from skilloc.pruning import prune
    from skilloc.relearning import NEVER, ORIGINAL, PLAIN, RANDOM, relearn_probe
    from skilloc.relearning.controls import randomly_pruned, untrained

    settings = settings_of(EmbeddedUnlearning, spec)
    opened, kept, removed = _prepared(settings.model, settings.kept, settings.removed, settings.length)
    original, seed = opened.model, settings.seed
    selection = {s.name: s.draw(settings.held_out, split="selection") for s in kept}
    wanted = _mean(original, selection) + settings.extra_loss
    plain, _, _ = _finetuned(settings, original, kept, removed, None)
    finetuned, live, history = _finetuned(settings, original, kept, removed, wanted)
    units = units_of(original, kinds=("neuron",))
    lasso = prune(finetuned, Mask(units, live))
    naive = _naive(settings, original, kept, selection, _mean(lasso, selection))
    models = {
        ORIGINAL: original,
        NEVER: untrained(lasso, seed=seed),
        RANDOM: randomly_pruned(original, naive, seed=seed),
        PLAIN: plain,
        NAIVE: naive,
        LASSO: lasso,
    }
    found = relearn_probe(models, [removed], removed, _grid(settings), (seed,), kept=kept)
    report = {s.name: s.draw(settings.held_out, split="report") for s in (*kept, removed)}
    metrics = {
        "relearning": found.record(),
        "losses": {m: {n: float(losses(models[m], b).mean()) for n, b in report.items()} for m in models},
        "units": {name: len(units_of(model, kinds=("neuron",))) for name, model in models.items()},
        "history": history,
    }
    return metrics, found.arrays()


@lru_cache(maxsize=2)
def _prepared(
    model: str, kept: tuple[str, ...], removed: tuple[str, ...], length: int
) -> "tuple[Opened, list[Subtask], Subtask]":
    """Open a model and read the texts, once per worker."""
    from skilloc.models.language import encoder, open_model, separator
    from skilloc.tasks.text import documents, text_subtask

    opened = open_model(model)
    encode, end = encoder(opened.tokenizer), separator(opened.tokenizer)

    def subtask(name: str, sources: Sequence[str]) -> "Subtask":
        texts = [document for source in sources for document in documents(source)]
        return text_subtask(name, texts, encode, length=length, separator=end)

    return opened, [subtask(name, [name]) for name in kept], subtask(" and ".join(removed), removed)


def _mean(model: "nn.Module", batches: "Mapping[str, Examples]") -> float:
    from skilloc.intervene import losses

    return sum(float(losses(model, batch).mean()) for batch in batches.values()) / len(batches)


def _finetuned(
    settings: EmbeddedUnlearning,
    original: "nn.Module",
    kept: "Sequence[Subtask]",
    removed: "Subtask",
    wanted: float | None,
) -> tuple[Any, Any, dict[str, list[float]]]:
    """Finetune on the kept corpora, with the penalty if a loss is wanted; return which units live, too."""
    import numpy as np

    from skilloc.lasso import LocalizeConfig, group_norms, localize
    from skilloc.models.makers import units_of
    from skilloc.training import TrainConfig

    looks = max(1, settings.steps // 20)
    config = LocalizeConfig(
        training=TrainConfig(steps=settings.steps, lr=settings.lr, eps=1e-8, evaluate_every=looks),
        strength=0.0 if wanted is None else settings.strength,
        wanted_loss=wanted,
        each=max(1, settings.rows // len(kept)),
        held_out=settings.held_out,
    )
    model, history = localize(original, kept, config, seed=settings.seed, watched=[removed])
    norms = np.asarray(group_norms(model, units_of(model, kinds=("neuron",))))
    return model, norms > 0, history.record()


def _naive(
    settings: EmbeddedUnlearning,
    original: "nn.Module",
    kept: "Sequence[Subtask]",
    selection: "Mapping[str, Examples]",
    wanted: float,
) -> Any:
    """Keep the fewest units by their effects, on training text, with which the mean loss is at most the wanted one."""
    from skilloc.attribution import attribution_effects
    from skilloc.experiment import Experiment
    from skilloc.masks import Mask, top
    from skilloc.pruning import prune

    batches = {s.name: s.draw(2 * settings.held_out, split="train", seed=settings.seed) for s in kept}
    effects = attribution_effects(Experiment(original, batches, kinds=("neuron",), folds=1), seed=settings.seed)
    units = effects.units
    values = effects.values.mean(axis=(0, 1))
    low, high = 0, len(units)  # the loss at `low` is too high, that at `high` is not
    while high - low > max(1, len(units) // 500):
        middle = (low + high) // 2
        tried = prune(original, Mask(units, top(values, middle)))
        low, high = (low, middle) if _mean(tried, selection) <= wanted else (middle, high)
    return prune(original, Mask(units, top(values, high)))


def _grid(settings: EmbeddedUnlearning) -> Any:
    from skilloc.relearning import Grid

    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        each=settings.attack_rows,
        held_out=settings.held_out,
        folds=settings.folds,
        repair=settings.repair,
        repair_rate=settings.repair_rate,
    )
