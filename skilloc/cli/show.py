"""`skilloc show`: tables and pictures of what a folder holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True)
class Command:
    """Print all tables of a study, and draw its pictures (PNG and SVG) into DIR/pictures."""

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """a folder that `skilloc effects` wrote"""
    count: int = 10
    """number of units that count as a subtask's top"""
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Print the tables, draw the pictures."""
        from skilloc import store
        from skilloc.cli import tables
        from skilloc.positions import PositionEffects
        from skilloc.removal import Removal
        from skilloc.study.folder import load_study
        from skilloc.study.pictures import draw_study
        from skilloc.study.report import (
            about,
            calibration_record,
            locality_record,
            positions_record,
            removal_record,
            top_units,
        )

        study = load_study(self.folder)
        folds = len(study.effects.values)
        most = int(study.effects.measured.sum()) - 1
        enough = folds >= 3 and most >= 1
        locality = locality_record(study.effects, top=min(self.count, most)) if enough else None
        held = self.folder / "removal"
        removal = removal_record(store.load(Removal, held)) if held.is_dir() else None
        where = self.folder / "positions"
        positions = positions_record(store.load(PositionEffects, where)) if where.is_dir() else None
        pictures = draw_study(study, locality, removal, self.folder / "pictures", positions)
        record = {
            "folder": str(self.folder),
            **about(study.effects),
            "top": top_units(study.effects),
            "locality": locality,
            "removal": removal,
            "positions": positions,
            "calibration": calibration_record(study),
            "pictures": [str(path) for path in pictures],
        }
        if self.json:
            tables.print_json(record)
            return
        tables.print_about(record)
        tables.print_top(record)
        tables.print_calibration(record)
        if locality is None:
            print(f"no locality scores: {most + 1} unit(s) in {folds} fold(s), and they need at least 2 in 3")
        else:
            tables.print_locality(locality)
        if removal is not None:
            tables.print_removal(removal)
        if positions is not None:
            tables.print_positions(positions)
        print(f"pictures: {', '.join(path.name for path in pictures)} (and .svg) in {self.folder / 'pictures'}")
