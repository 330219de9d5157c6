"""`skilloc check`: what can be done with a model."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

Model = Annotated[Positional[str], arg(metavar="MODEL")]


@dataclass(frozen=True)
class Command:
    """Try what can be done with a model: open it, measure each kind of unit, cut them out, save it, open it elsewhere.

    Every line was tried on random tokens. Exit status 1 if something does not work.
    """

    model: Model
    """embedded, smollm2, a hub name, a folder, or a .gguf file"""
    device: str = "cpu"
    """where the model runs"""
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Print a line for each thing that was tried."""
        import sys

        from skilloc.cli.printed import print_json
        from skilloc.models.language import open_model
        from skilloc.study.checking import check

        opened = open_model(self.model, device=self.device)
        lines = []
        for line in check(opened):
            lines.append(line)
            if not self.json:
                apart = "" if line.difference is None else f", logits within {line.difference:.0e}"
                print(f"{'yes' if line.works else 'no ':3}  {line.what}: {line.said}{apart}", flush=True)
        if self.json:
            print_json(model=self.model, lines=lines)
        sys.exit(0 if all(line.works for line in lines) else 1)
