"""`skilloc locality`: how few units carry each subtask, and which they share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skilloc.cli.places import top_of
from skilloc.mistakes import WrongValue, whole


@dataclass(frozen=True)
class Command:
    """Print how local each skill is and how far skills share units, with 95 % intervals and chance levels.

    Several folders of one model and one set of tokens that differ in the reference also get the spread between them.
    """

    folders: Annotated[Positional[tuple[Path, ...]], arg(metavar="DIR [DIR ...]")]
    """folders that `skilloc effects` wrote"""
    count: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None
    """number of units that count as a subtask's top (default: 10, or fewer where fewer were measured)"""
    json: bool = False
    """print JSON only"""

    def run(self) -> None:
        """Print the tables."""
        if self.count is not None:
            whole("count", self.count)
        if not self.folders:
            raise WrongValue("`folders` is empty; name at least one folder that `skilloc effects` wrote")
        from skilloc.attribution.measured import load_measured
        from skilloc.cli.printed import print_json, print_sections
        from skilloc.report.bounds import first, subtasks_words
        from skilloc.report.effects import measured_section
        from skilloc.report.locality import between_section, locality_section, references_section
        from skilloc.report.record import as_json
        from skilloc.report.scored import locality_of, references_of

        studies = [load_measured(folder).effects for folder in self.folders]
        top = top_of(self.count, studies)
        every = len(studies[0].subtasks)
        if not self.json:
            studies = [first(effects) for effects in studies]
        results = [locality_of(effects, top=top) for effects in studies]
        spread = references_of(studies, top=top)
        if self.json:
            told = [{"folder": str(folder), **as_json(one)} for folder, one in zip(self.folders, results, strict=True)]
            print_json(results=told, spread=spread)
            return
        for sentence in subtasks_words(every):
            print(sentence)
        for effects, one in zip(studies, results, strict=True):
            print_sections(measured_section(effects), locality_section(one), between_section(one))
        print_sections(None if spread is None else references_section(spread))
