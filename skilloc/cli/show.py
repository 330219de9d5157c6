"""`skilloc show`: tables and pictures of what a folder holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from skilloc.mistakes import whole


@dataclass(frozen=True)
class Command:
    """Print all tables of a study, and draw its pictures (PNG and SVG) into DIR/pictures."""

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """a folder that `skilloc effects`, prune, localize or relearn wrote"""
    count: int = 10
    """number of units that count as a subtask's top"""
    json: bool = False
    """print JSON only"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.folder / "pictures", True)] if self.folder.is_dir() else []

    def run(self) -> None:
        """Print the tables, draw the pictures."""
        whole("count", self.count)
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.findings import read_findings, sections_of
        from skilloc.report.made import made_in
        from skilloc.report.pictures import save_pictures

        found: tuple[Any, ...]
        results, sections = ({}, []) if (self.folder / "effects").is_dir() else made_in(self.folder)
        found, more = (), {"results": results}
        if not sections:
            found, more = (read_findings(self.folder, top=self.count),), {}
            sections = sections_of(found[0])
        pictures = save_pictures(
            [picture for section in sections for picture in section.pictures], self.folder / "pictures"
        )
        if self.json:
            print_json(*found, **more, folder=self.folder, pictures=pictures)
            return
        print_sections(*sections)
        print(f"pictures: {', '.join(path.name for path in pictures)} (and .svg) in {self.folder / 'pictures'}")
