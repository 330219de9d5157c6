"""`skilloc fetch`: get what is not part of the package."""

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.mistakes import WrongValue


@dataclass(frozen=True)
class Command:
    """Download something pinned once, verify it, and keep it in the user's cache.

    There is a model, smollm2 (93 MB), and there are MNIST's digits (1 to 12 MB, from the first source that answers).
    """

    name: Annotated[Positional[str], arg(metavar="smollm2|digits")]
    """which of the two"""

    def run(self) -> None:
        """Fetch, and print the folder."""
        if self.name == "smollm2":
            from skilloc.models.fetch import fetch_smollm2 as fetch
        elif self.name == "digits":
            from skilloc.tasks.digit_files import fetch_digits as fetch
        else:
            raise WrongValue(f'`name` is "{self.name}"; there is smollm2, and there is digits')
        print(fetch(report=lambda line: print(line, file=sys.stderr)))
