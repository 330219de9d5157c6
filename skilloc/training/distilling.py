"""Distillation: a student of any size learns from a teacher [Hinton et al. 2015; paper, sections 4.2 and 5].

It is training on a loss that compares with the teacher instead of with the untouched model: the same loop, stops and
histories. A student that starts as the pruned teacher is pruned and then distilled; one of the same shape with fresh
initial values is `face_of(pruned).fresh(seed)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss, cross_entropy, distillation
from skilloc.training import train
from skilloc.training.history import History
from skilloc.training.settings import Objective, Sample, TrainConfig


@dataclass(frozen=True)
class Teaching:
    """How a student is taught. The defaults are those of the paper's experiments on digits.

    Attributes:
        temperature: T of the soft targets; logits are divided by it.
        soft: share of the loss that comes from the teacher, from 0 to 1; the rest is cross-entropy with the targets.
        match: hooks of the teacher by hooks of the student, of one shape, whose activations are to agree.
        weight: of the disagreement of matched activations, in nats: the mean over pairs and examples of
            |a - a_teacher|^2 / |a_teacher|^2.
        measured: the loss of the history, and of `until` in the configuration.

    Example:
        >>> from skilloc.training.distilling import Teaching
        >>> Teaching(soft=0.5).temperature
        20.0
    """

    temperature: float = 20.0
    soft: float = 0.9
    match: Mapping[str, str] = field(default_factory=dict)
    weight: float = 1.0
    measured: Loss = cross_entropy


def distil(
    student: nn.Module,
    teacher: nn.Module,
    sample: Sample,
    config: TrainConfig,
    *,
    evaluate: Mapping[str, Examples],
    how: Teaching | None = None,
) -> History:
    """Train a student in place to do what a teacher does.

        loss = (1 - soft) cross_entropy + soft T^2 KL(softmax(teacher / T) || softmax(student / T))
               + weight * mean over matched pairs of |a - a_teacher|^2 / |a_teacher|^2

    in nats per token, the mean over the step's examples.

    Args:
        student: a bridge, an `MLP` or a described module; it ends in evaluation mode.
        teacher: a model that takes the same inputs and has the same outputs; it is left as it was.
        sample: the examples of each step.
        config: the settings of the training loop.
        evaluate: held-out examples by subtask.
        how: temperature, shares and matched activations; `Teaching()` if not given.

    Returns:
        The history, with `measured` in its columns.

    Raises:
        ValueError: if a setting is out of range, the two models do not fit to each other, or the teacher cannot take
            the examples.
        FloatingPointError: if the loss is not finite, with the step.

    Example:
        >>> import skilloc as sk
        >>> from skilloc.training.distilling import distil
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> teacher, student = sk.MLP(6, 2, width=16, depth=3), sk.MLP(6, 2, width=4, depth=3, seed=1)
        >>> sample = sk.tasks.stream(subtasks.values(), 32, seed=0)
        >>> held_out = {name: subtask.draw(100) for name, subtask in subtasks.items()}
        >>> config = sk.TrainConfig(steps=20, rate=1e-2)
        >>> history = distil(student, teacher, sample, config, evaluate=held_out)
        >>> int(history.of("step")[-1])
        20
    """
    how = how or Teaching()
    outputs = {"teacher": _outputs(teacher, evaluate), "student": _outputs(student, evaluate)}
    if outputs["teacher"] != outputs["student"]:
        raise WrongValue(
            f"`teacher` has {outputs['teacher']} outputs but `student` {outputs['student']}; distil between models of "
            "the same outputs, such as the same tokenizer"
        )
    objective = Objective(
        distillation(how.temperature, how.soft), how.measured, teacher, match=how.match, weight=how.weight
    )
    return train(student, sample, config, evaluate=evaluate, loss=objective)


def _outputs(model: nn.Module, evaluate: Mapping[str, Examples]) -> int | None:
    """How many outputs a model has, from one example; None where there is nothing to ask it."""
    face = face_of(model)
    for examples in evaluate.values():
        face.check(examples)
        with torch.no_grad():
            return int(face.run(examples.part(slice(0, 1)).inputs).shape[-1])
    return None
