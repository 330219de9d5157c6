"""`skilloc fetch`: get a model that is not part of the package."""

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.mistakes import WrongValue


@dataclass(frozen=True)
class Command:
    """Download a pinned model once, verify it, and keep it in the user's cache. There is one: smollm2 (93 MB)."""

    name: Annotated[Positional[str], arg(metavar="smollm2")]
    """which model"""

    def run(self) -> None:
        """Fetch, and print the folder."""
        if self.name != "smollm2":
            raise WrongValue(f'`name` is "{self.name}"; there is smollm2')
        from skilloc.models.fetch import fetch_smollm2

        print(fetch_smollm2(report=lambda line: print(line, file=sys.stderr)))
