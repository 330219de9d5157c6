"""`skilloc report`: everything that was measured in a folder, as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.mistakes import WrongValue


@dataclass(frozen=True)
class Command:
    """Write everything that was measured in a folder into one HTML file, which needs nothing else to be read."""

    folder: Annotated[Positional[Path], arg(metavar="DIR")]
    """a folder that `skilloc effects` wrote, with what was made from it: removal, circuits; or one of
    prune, localize or relearn"""
    out: Annotated[Path | None, arg(help_behavior_hint="")] = None
    """the file to write (default: DIR/report.html)"""

    def places_written(self) -> list[tuple[Path, bool]]:
        """Return what is written, and whether it is a folder that is filled by and by."""
        return [(self.out or self.folder / "report.html", False)] if self.folder.is_dir() else []

    def run(self) -> None:
        """Write it, and print where it is."""
        from datetime import UTC, datetime

        from skilloc.report import report_page, write

        path = self.out or self.folder / "report.html"
        if path.is_dir():
            raise WrongValue(f'`out` is "{path}", which is a folder; name a file, such as {path / "report.html"}')
        write(path, report_page(self.folder, when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"))
        print(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
