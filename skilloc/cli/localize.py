"""`skilloc localize`: finetune a model so that few units carry what is to be kept."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from skilloc.cli.effects import Model, Subtask, builtin_of, sources_of
from skilloc.cli.machine import Machine
from skilloc.cli.places import following
from skilloc.mistakes import WrongValue, whole


@dataclass(frozen=True)
class Command:
    """Finetune a model with a penalty on the weights of whole units, so that few of them carry the kept subtasks.

    Killed at any moment, the same command goes on where it was. With `--strength 0` it is plain finetuning for as long:
    the control.
    """

    model: Model
    """embedded, smollm2, a hub name, a folder, or a .gguf file"""
    keep: Annotated[tuple[str, ...], arg(metavar="NAME ...")]
    """names of the subtasks to keep, on which the model is trained; the others are only measured"""
    out: Path
    """folder for the model and its history"""
    subtask: Subtask = ()
    """all subtasks, as for `skilloc effects`"""
    units: Annotated[tuple[str, ...], arg(metavar="KIND ...")] = ("neuron",)
    """kinds of unit that are penalised: neuron, head or both; or residual"""
    loss: Annotated[str, arg(metavar="LOSS")] = "cross_entropy"
    """what is trained and measured: cross_entropy, answer, choice, logit_difference, or package.module:function"""
    penalty: Annotated[str, arg(metavar="lasso|half|hoyer|l1")] = "lasso"
    """lasso (group lasso), half (group L1/2), hoyer (the same at any scale of weights) or l1 (single weights)"""
    solver: Annotated[str, arg(metavar="proximal|subgradient")] = "proximal"
    """proximal, which gives exact zeros; or subgradient, with the penalty in the loss"""
    strength: float = 1e-3
    """of the penalty, in the unit of the loss; where it is steered, its first value"""
    count: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """steer the strength to this number of live units"""
    wanted_loss: Annotated[float | None, arg(metavar="VALUE", help_behavior_hint="")] = None
    """steer the strength to this loss, the mean over the kept subtasks on the selection split"""
    threshold: float = 0.05
    """without proximal steps, a unit whose weights have at most this norm is dead"""
    steps: int = 2000
    """optimiser steps"""
    rate: float = 1e-3
    """learning rate"""
    optimiser: Annotated[str, arg(metavar="adam|adamw|sgd")] = "adam"
    """adam, adamw or sgd (with momentum 0.9)"""
    products: Annotated[str, arg(metavar="float32|bfloat16")] = "float32"
    """type of the matrix products of training: float32 or bfloat16; recorded, as it changes the numbers"""
    examples: int = 16
    """training examples per kept subtask and step"""
    length: int = 96
    """tokens per example"""
    held_out: int = 64
    """examples per subtask that losses are measured on, on the selection split and on the report split"""
    evaluate_every: int = 100
    """steps between evaluations, at which the strength is steered"""
    seed: int = 0
    """of the examples"""
    spread: Annotated[str, arg(metavar="alone|replicated|sharded")] = "alone"
    """over the processes that torchrun started: replicated, where each has all weights; or sharded (FSDP2)"""
    accumulate: int = 1
    """pieces that each process cuts its part of a step into, one after the other, which takes less memory"""
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        first = "TORCHELASTIC_RUN_ID" not in os.environ or os.environ.get("RANK") == "0"
        return [(self.out, True)] if first else []

    def run(self) -> None:
        """Localize, save, print the live units and the losses."""
        whole("length", self.length)
        whole("accumulate", self.accumulate)
        sources = sources_of(self.subtask, builtin_of(self.model))
        _check("penalty", self.penalty, ("lasso", "half", "hoyer", "l1"))
        _check("solver", self.solver, ("proximal", "subgradient"))
        _check("optimiser", self.optimiser, ("adam", "adamw", "sgd"))
        _check("products", self.products, ("float32", "bfloat16"))
        _check("spread", self.spread, ("alone", "replicated", "sharded"))
        if self.loss.replace(".", "", 1).isdecimal():
            raise WrongValue(f'`loss` is "{self.loss}", a number; to steer to a loss, write --wanted-loss {self.loss}')
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.lasso import LocalizeConfig
        from skilloc.report.pruning import localized_section
        from skilloc.study.draws import loss_of, subtasks_of
        from skilloc.study.localizing import localize_into
        from skilloc.training import TrainConfig
        from skilloc.training.products import product_advice
        from skilloc.training.spread import Spread, joined, started

        if started() and self.spread == "alone":
            raise WrongValue(
                '`spread` is "alone", but torchrun started several processes, which would all do the same; use '
                "--spread replicated or sharded"
            )
        way: Any = self.spread
        chosen: dict[str, Any] = {"penalty": self.penalty, "solver": self.solver}
        optimiser: dict[str, Any] = {"optimiser": self.optimiser, "products": self.products}
        config = LocalizeConfig(
            training=TrainConfig(
                steps=self.steps,
                rate=self.rate,
                evaluate_every=self.evaluate_every,
                spread=Spread(way, self.accumulate),
                **optimiser,
            ),
            strength=self.strength,
            wanted_live=self.count,
            wanted_loss=self.wanted_loss,
            loss=loss_of(self.loss),
            threshold=self.threshold,
            kinds=self.units,
            examples=self.examples,
            held_out=self.held_out,
            **chosen,
        )
        with joined() as first:
            if self.products == "bfloat16" and not self.json and first:
                print(product_advice())
            opened = self.machine.open(self.model, trained=True)
            subtasks = subtasks_of(opened, sources, length=self.length)
            found = localize_into(self.out, opened, subtasks, self.keep, config, seed=self.seed)
        if not first:
            return
        if self.json:
            print_json(found, out=self.out)
            return
        print_sections(localized_section(found))
        place = self.out / "model"
        print(f"saved in {place}; {following('effects', place, '--out', self.out / 'effects')}")


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise WrongValue(f'unknown `{name}` "{value}"; use {", ".join(allowed[:-1])} or {allowed[-1]}')
