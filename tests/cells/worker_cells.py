"""A loss of the tests of spread measurements; workers import this module by name."""

import time

from torch import Tensor

from skilloc.tasks import Examples
from skilloc.tasks.losses import cross_entropy


def patient(logits: Tensor, examples: Examples) -> Tensor:
    """A loss that takes its time, so that something can happen meanwhile."""
    time.sleep(0.03)
    return cross_entropy(logits, examples, None)


def busy(logits: Tensor, examples: Examples) -> Tensor:
    """A loss that takes its time, and the processor meanwhile, so that it can be seen who is at work."""
    until = time.thread_time() + 0.1
    while time.thread_time() < until:
        pass
    return cross_entropy(logits, examples, None)
