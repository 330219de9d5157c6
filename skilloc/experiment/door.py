"""The experiment: a model, subtasks, units, a reference, a loss and folds, checked once, given for a split.

    experiment = Experiment(model, {"python": python, "english": english}, reference="mean")
    effects = ablation_effects(experiment.on("selection"))

Everything that measures takes an experiment first. It owns what every measurement needs: the examples, cut into folds
and on the device of the model; the values that ablated units are held at; where they are held; and what the loss must
know of the untouched model.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from skilloc.experiment import checks
from skilloc.experiment.holding import hold
from skilloc.experiment.means import flat_mean_reference, mean_reference
from skilloc.experiment.positions import ALL, positions_held, single_positions
from skilloc.experiment.record import record
from skilloc.experiment.reference import (
    Reference,
    as_reference,
    paired_reference,
    resample_reference,
    shortened,
    zero_reference,
)
from skilloc.experiment.threads import one_thread
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.models.language import digest
from skilloc.models.losses import blocks, check_model, losses_of, prepared_for
from skilloc.models.makers import face_of, units_of
from skilloc.tasks import Examples, Folded, Split, Subtask, fold
from skilloc.tasks.losses import Loss, as_loss, cross_entropy
from skilloc.units import KINDS, Units


@dataclass(frozen=True, eq=False)
class Experiment:
    """What is measured on what.

    Attributes:
        model: a bridge, an `MLP` or a described module, in evaluation mode; it is left as it was.
        subtasks: by name, distributions to draw examples from, or examples themselves.
        kinds: kinds of unit: neurons, heads and experts together, or residual dimensions, or layers.
        reference: what an ablated unit is held at: "zero", "mean" (per position, or per role in prompts), "flat mean"
            (over all positions), "resample", "paired"; one value per unit; or a `Reference`.
        loss: a `Loss`, the name of one that is ready, or a function of (logits, examples).
        folds: disjoint parts of each subtask's examples, behind every interval.
        at: the positions at which units are held: "all", "scored", a name that the examples give to positions (such as
            "last"), or a mask on `row pos`.
        count: examples to draw per subtask.
        seed: of the draws, and of resampling.
        split: which split the examples are drawn from.
        units: the unit axis; that of `kinds` if not given.
        other: examples that a mean is taken over, by subtask; if not given, drawn from another split, or, where
            `subtasks` are examples, these themselves.
        entries: of the widest tensor of a pass through the model, at most; 2^26 if not given. Fewer take less memory
            and more time, and are rounded otherwise.

    Raises:
        ValueError: if the parts do not belong together.
        TypeError: if the model is none, or nobody has named its units.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> experiment = sk.Experiment(model, subtasks, count=64)
        >>> len(experiment.units), experiment.on("selection").split
        (16, 'selection')
    """

    model: nn.Module
    subtasks: Mapping[str, Subtask] | Mapping[str, Examples]
    kinds: tuple[str, ...] = KINDS
    reference: str | Reference | Float[np.ndarray, " unit"] = "zero"
    loss: Loss | str | Callable[[Tensor, Examples], Tensor] = cross_entropy
    folds: int = 8
    at: str | Bool[Tensor, "row pos"] | Bool[np.ndarray, "row pos"] = ALL
    count: int = 256
    seed: int = 0
    split: Split = "report"
    units: Units = None  # type: ignore[assignment]  # resolved from `kinds`
    other: Mapping[str, Examples] | None = None
    entries: int | None = None

    def __post_init__(self) -> None:
        if self.units is None:
            object.__setattr__(self, "units", units_of(self.model, kinds=self.kinds))
        object.__setattr__(self, "loss", as_loss(self.loss))
        if isinstance(self.at, np.ndarray):
            object.__setattr__(self, "at", torch.as_tensor(self.at))
        checks.check_numbers(self.count, self.folds, self.seed, self.entries)
        checks.check_subtasks(self.subtasks, self.split)
        checks.check_reference(self.reference)
        checks.check_units(self.units, self.model)

    @cached_property
    def face(self) -> Face:
        """The model as the house sees it."""
        return face_of(self.model)

    @property
    def metric(self) -> Loss:
        """The loss, whatever it was given as."""
        return cast(Loss, self.loss)

    def on(self, split: Split) -> "Experiment":
        """Return the experiment with the examples of a split.

        Raises:
            ValueError: if the split is unknown, or `subtasks` are examples, which belong to one split already.
        """
        if not self.draws:
            raise WrongValue(f'`split` is "{split}", but `subtasks` are examples already; pass subtasks to draw from')
        return replace(self, split=split)

    def only(self, subtask: str) -> "Experiment":
        """Return the experiment about one of its subtasks, with the same examples and held values.

        Raises:
            ValueError: if there is no such subtask.
        """
        if subtask not in self.subtasks:
            raise WrongValue(f'unknown subtask "{subtask}"; this experiment has {", ".join(self.subtasks)}')
        own, rows = self.examples[subtask], self.rows_of(self.folded.of(subtask))
        at = self.at if isinstance(self.at, str) else self.at[rows]
        held, longest = self.held.part(rows), self.folded.examples.positions
        if own.positions < longest:
            at = at if isinstance(at, str) else at[:, : own.positions]
            held = shortened(held, self.units, longest, own.positions)
        return replace(self, subtasks={subtask: own}, reference=held, at=at)

    @property
    def draws(self) -> bool:
        """Whether the subtasks are distributions, and not examples."""
        return isinstance(next(iter(self.subtasks.values())), Subtask)

    @cached_property
    def examples(self) -> dict[str, Examples]:
        """The examples of each subtask."""
        return self._drawn(self.split)

    def _drawn(self, split: Split) -> dict[str, Examples]:
        if not self.draws:
            return dict(cast(Mapping[str, Examples], self.subtasks))
        subtasks = cast(Mapping[str, Subtask], self.subtasks)
        return {name: own.draw(self.count, split=split, seed=self.seed) for name, own in subtasks.items()}

    @cached_property
    def folded(self) -> Folded:
        """All examples together, on the model's device, checked against the model."""
        found = fold(self.examples, self.folds)
        check_model(self.model, found.examples)
        return found.to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @cached_property
    def held(self) -> Reference:
        """The values that ablated units are held at."""
        with one_thread():  # a measurement's name has their digest
            return self._reference().to(self.device)

    def _reference(self) -> Reference:
        if not isinstance(self.reference, str):
            return as_reference(self.reference, self.units)
        examples = {name: own.to(self.device) for name, own in self.examples.items()}
        if self.reference in ("mean", "flat mean"):
            other: Split = "train" if self.split == "selection" else "selection"
            drawn = self.other if self.other is not None else self._drawn(other)
            source = {name: own.to(self.device) for name, own in drawn.items()}
            if self.reference == "flat mean":
                return flat_mean_reference(self.model, source, self.units, entries=self.entries)
            return mean_reference(self.model, source, self.units, measured=examples, entries=self.entries)
        if self.reference == "resample":
            return resample_reference(self.model, examples, self.units, seed=self.seed, entries=self.entries)
        if self.reference == "paired":
            return paired_reference(self.model, examples, self.units, entries=self.entries)
        return zero_reference(self.units)

    @cached_property
    def where(self) -> Bool[Tensor, "row pos"] | None:
        """The positions at which units are held; None for all."""
        return positions_held(cast(str | Tensor, self.at), self.folded.examples)

    def positions(self, names: Sequence[str] = ()) -> dict[str, Bool[Tensor, "row pos"]]:
        """Return where each position is, within those at which units are held.

        Args:
            names: names that the examples give to positions; every place of a row if not given.

        Raises:
            ValueError: if the examples have no positions, or not these names.
        """
        return single_positions(self.folded.examples, self.where, names)

    @cached_property
    def prepared(self) -> Tensor | None:
        """What the loss knows of the untouched model, on rows."""
        return prepared_for(self.face, self.folded.examples, self.metric, self.entries)

    @property
    def blocks(self) -> list[slice]:
        """The examples that pass through the model together."""
        return blocks(self.face, self.folded.examples, self.entries)

    def rows_of(self, examples: slice) -> slice:
        """Return the rows of some consecutive examples."""
        return self.folded.examples.rows_of(examples)

    def part(self, examples: slice) -> tuple[Examples, Tensor | None]:
        """Return some consecutive examples, and what the loss knows about them."""
        known = None if self.prepared is None else self.prepared[self.rows_of(examples)]
        return self.folded.examples.part(examples), known

    def losses(self, mask: Mask | None = None) -> Float64[np.ndarray, " example"]:
        """Return the loss of each example with the dropped units of a mask held; of the untouched model without one."""
        found = []
        for block in self.blocks:
            some, known = self.part(block)
            if mask is None:
                found.append(losses_of(self.face, some, self.metric, known))
                continue
            with hold(self.model, mask, self.held, self.rows_of(block), where=self.where):
                found.append(losses_of(self.face, some, self.metric, known))
        return torch.cat(found).cpu().numpy()

    @cached_property
    def baseline(self) -> Float64[np.ndarray, "fold subtask"]:
        """The loss of the untouched model.

        Raises:
            ValueError: if it is not finite, naming the subtask.
        """
        found = self.folded.mean(self.losses())
        checks.check_losses(found, self.folded.subtasks)
        return found

    def record(self) -> dict[str, Any]:
        """Return what names this measurement: the same record means the same numbers. JSON only."""
        self.check_unchanged()
        found = record(self.model, self.folded, self.units, self.held, self.metric)
        if "hooks" in found or not self.metric.ready:
            # Names do not say what a hook holds or a loss's helpers do; what they make of the untouched model does.
            with one_thread():
                found["behaviour"] = hashlib.sha256(self.losses().tobytes()).hexdigest()[:16]
        if self.entries is not None:
            found["entries"] = self.entries
        if self.where is not None:
            found["at"] = (
                self.at
                if isinstance(self.at, str)
                else Examples(self.where.float(), self.folded.examples.targets).digest
            )
        return found

    @cached_property
    def _seen(self) -> tuple[object, str]:
        return checks.fingerprint(self.model), digest(self.model)

    def check_masks(self, masks: Iterable[Mask]) -> None:
        """Refuse masks that are not about the units of the experiment.

        Raises:
            ValueError: if one is not, or the model has changed since.
        """
        self.check_unchanged()
        for mask in masks:
            if mask.units != self.units:
                raise WrongValue(
                    f"`masks` has one of {len(mask.units)} units on {', '.join(mask.units.hooks)}, but the experiment "
                    f"is about {len(self.units)} on {', '.join(self.units.hooks)}; make masks of experiment.units"
                )

    def check_unchanged(self) -> None:
        """Refuse to go on with a model whose weights have changed since the experiment first looked at them.

        Raises:
            ValueError: if so.
        """
        known, before = self._seen
        if known != checks.fingerprint(self.model) and before != digest(self.model):
            raise WrongValue(
                "`model` has changed since this experiment began, and what it remembers of the untouched model is "
                "stale; make a new Experiment"
            )
