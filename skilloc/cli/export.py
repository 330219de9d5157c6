"""`skilloc export`: a narrow model as a folder for plain transformers, with its card."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.cli.effects import Model
from skilloc.cli.machine import Machine
from skilloc.mistakes import WrongValue


@dataclass(frozen=True)
class Command:
    """Write a narrow model as a folder that plain transformers opens, with a model card.

    The folder is opened again, its logits compared with the model's and its passes timed beside the original's; the
    card says all that, what was kept and removed, and what attacks found.
    """

    model: Model
    """the model before anything was done to it: embedded, smollm2, a hub name, a folder, or a .gguf file"""
    steps: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]")]
    """folders that `skilloc localize` and `skilloc prune` wrote, in the order in which they made it; the last holds the
    model"""
    out: Path
    """new folder, for transformers"""
    attacks: Annotated[tuple[Path, ...], arg(metavar="DIR ...", help_behavior_hint="")] = ()
    """folders in which `skilloc relearn` attacked it, whose verdicts the card says"""
    gguf: bool = False
    """write model.gguf too, where there is one for such a model (needs the extra gguf)"""
    machine: Annotated[Machine, arg(name="")] = field(default_factory=Machine)
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out, False)]

    def run(self) -> None:
        """Write, compare, time, print the card's sections."""
        for folder in self.steps or (Path("."),):
            if not (folder / "model").is_dir():
                raise WrongValue(
                    f'"{folder}" holds no model of `skilloc prune` or `skilloc localize`; name the folder that it wrote'
                )
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.handed import card, handed_sections
        from skilloc.study.handing import Past, hand_over

        original, narrow = self.machine.open(self.model), self.machine.open(str(self.steps[-1] / "model"))
        found = hand_over(original, narrow, Past(self.steps, self.attacks), self.out, card=card, gguf=self.gguf)
        if self.json:
            print_json(found, out=self.out)
            return
        print_sections(*handed_sections(found))
        print(f"saved in {self.out}; its card is {self.out}/README.md")
