"""`skilloc locality`: how few units carry each subtask, and which they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Command:
    """Print how local each skill is and how far skills share units, with 95 % intervals and chance levels.

    Several folders of one model and one set of tokens that differ in the reference also get the spread between them.
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]")]
    """folders that `skilloc effects` wrote"""
    count: int = 10
    """number of units that count as a subtask's top"""
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Print the tables."""
        if not self.folders:
            raise ValueError("`folders` is empty; name at least one folder that `skilloc effects` wrote")
        from skilloc.cli import tables
        from skilloc.study.folder import load_study
        from skilloc.study.report import locality_record, spread_record

        records = [
            {"folder": str(folder), **locality_record(load_study(folder).effects, top=self.count)}
            for folder in self.folders
        ]
        spread = spread_record(records)
        if self.json:
            tables.print_json({"results": records, "spread": spread})
            return
        for record in records:
            tables.print_about(record)
            tables.print_locality(record)
        if spread is not None:
            tables.print_spread(spread)
