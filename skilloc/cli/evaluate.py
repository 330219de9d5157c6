"""`skilloc evaluate`: what lm-eval says of a model, as it is, with units held, or pruned."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.cli.machine import Machine
from skilloc.mistakes import whole


@dataclass(frozen=True)
class Command:
    """Run a task of lm-eval, with data in local files, on a model: the original, with units held, or pruned."""

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """embedded, smollm2, a hub name, a folder (also of a pruned model), or a .gguf file"""
    tasks: Annotated[Path, arg(metavar="FILE.yaml")]
    """a task of lm-eval"""
    held: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """hold units at zero: the top ones of a study that `skilloc effects` wrote"""
    subtask: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """of which subtask of DIR (default: its first)"""
    count: int = 10
    """number of units to hold"""
    limit: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """evaluate the first N items only"""
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Evaluate, print the metrics."""
        whole("count", self.count)
        if self.limit is not None:
            whole("limit", self.limit)
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json
        from skilloc.masks import drop_top
        from skilloc.study.evaluate import evaluate

        opened, mask = self.machine.open(self.model), None
        if self.held is not None:
            effects = load_measured(self.held).effects
            mask = drop_top(
                effects.units, effects.mean(effects.subtasks[0] if self.subtask is None else self.subtask), self.count
            )
        found = evaluate(opened, self.tasks, mask=mask, limit=self.limit)
        if self.json:
            print_json(task=found.task, held=0 if mask is None else self.count, **found.metrics)
            return
        print(f"{found.task}: {len(found.samples)} items" + (f", {self.count} units held" if mask else ""))
        for key, value in found.metrics.items():
            print(f"  {key.partition(',')[0]:12} {value:.4f}")
