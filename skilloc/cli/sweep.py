"""`skilloc sweep`: a grid of cells, each run once, on this machine or on a cluster."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg, subcommand

from skilloc.cli.places import following
from skilloc.cli.workers import devices_of
from skilloc.mistakes import WORKERS, WrongValue, whole

if TYPE_CHECKING:
    from skilloc.cli.sweep_config import Plan
    from skilloc.sweep import Failure

SHOWN = 10
"""Failures that are printed in full."""

Folder = Annotated[Positional[Path], arg(metavar="DIR")]


@dataclass(frozen=True)
class Run:
    """Run the cells of a sweep that are not there yet; stopped at any moment, the same command goes on.

    The exit status is 1 if a cell failed; failed cells are tried again by the next run.
    """

    config: Annotated[Positional[Path], arg(metavar="CONFIG.toml")]
    """names a cell function, fixed settings and a grid; see docs/scale.md"""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE"), UseAppendAction] = ()
    """a setting that goes over the file's, for every cell"""
    out: Path | None = None
    """folder for the results (default: runs/ and the name of the file)"""
    workers: int = 0
    """worker processes on this machine; 0 runs in this process"""
    gpus: tuple[str, ...] = ()
    """CUDA devices of this machine, one worker each, instead of workers"""
    scheduler: str | None = None
    """address or scheduler file of a running Dask scheduler, instead of workers"""
    threads: int | None = None
    """threads per cell; 0 divides the cores by the workers (default: the file's, or 1)"""
    tls: Annotated[tuple[Path, Path, Path] | None, arg(metavar="CA CERT KEY")] = None
    """files for a scheduler that uses TLS"""
    dry_run: bool = False
    """print the cells with all their settings, and which are there already; run nothing"""

    def run(self) -> None:
        """Run, print what became of the cells."""
        from skilloc.cli.sweep_config import read_plan
        from skilloc.sweep import Pool, preview, sweep

        whole("workers", self.workers, 0, WORKERS)
        if self.threads is not None:
            whole("threads", self.threads, 0, WORKERS)
        plan = read_plan(self.config, self.set)
        out = self.out or Path("runs") / self.config.stem
        threads = plan.threads if self.threads is None else self.threads
        tls = None if self.tls is None else dict(zip(("ca", "cert", "key"), map(str, self.tls), strict=True))
        pool = Pool(self.workers, devices_of(self.gpus), self.scheduler, threads, tls)
        if self.dry_run:
            _print_plan(plan, preview(plan.cell, plan.specs, out=out, pool=pool))
            return
        report = sweep(plan.cell, plan.specs, out=out, pool=pool)
        counts = f"{len(report.done)} done, {len(report.cached)} cached, {len(report.failed)} failed"
        print(f"{len(report.keys)} cells: {counts}; {following('sweep', 'table', out)}")
        _print_failures(report.failed)
        if report.failed:
            sys.exit(1)


@dataclass(frozen=True)
class Status:
    """Show how far a sweep is, also while it runs."""

    folder: Folder
    """folder of the results"""

    def run(self) -> None:
        """Print the counts and the failures."""
        from skilloc.sweep import status

        state = status(self.folder)
        print(f"{len(state.done)} done, {len(state.failed)} failed, {len(state.left)} left in {self.folder}")
        _print_failures(state.failed)


@dataclass(frozen=True)
class Table:
    """Show the results of a sweep as a table, or write it to a file."""

    folder: Folder
    """folder of the results"""
    parquet: Path | None = None
    """write a parquet file"""
    csv: Path | None = None
    """write a CSV file"""

    def run(self) -> None:
        """Print the table, first what is the same in all rows; or write it."""
        import pandas

        from skilloc.store import table

        frame = table(self.folder)
        read_csv = partial(pandas.read_csv, index_col=0)
        for path, write, read in (
            (self.parquet, frame.to_parquet, pandas.read_parquet),
            (self.csv, frame.to_csv, read_csv),
        ):
            if path is not None:
                _write_table(path, write, read)
                print(f"{len(frame)} rows in {path}")
        if self.parquet is None and self.csv is None:
            same = [name for name in frame.columns if len(frame) > 1 and len({_text(v) for v in frame[name]}) == 1]
            for name in same:
                print(f"{name} = {_text(frame[name].iloc[0])}")
            varied = frame.drop(columns=same)
            specs = [varied[name].tolist() for name in varied.columns if name.startswith("spec.")]
            order = sorted(range(len(varied)), key=lambda row: [_sortable(column[row]) for column in specs])
            print(varied.iloc[order].to_string())


@dataclass(frozen=True)
class Command:
    """Run a grid of cells, each once: in this process, on workers of this machine, or on a Dask cluster."""

    action: (
        Annotated[Run, subcommand("run")]
        | Annotated[Status, subcommand("status")]
        | Annotated[Table, subcommand("table")]
    )

    def run(self) -> None:
        """Do it."""
        self.action.run()


def _print_plan(plan: "Plan", states: Mapping[str, str]) -> None:
    """Print one line per cell, with what differs between cells."""
    specs = [_flat(spec) for spec in plan.specs]
    varied = {name for name in specs[0] if len({_text(spec[name]) for spec in specs}) > 1}
    print(f"{plan.cell}: {_pairs(specs[0], specs[0].keys() - varied)}")
    for spec, (key, state) in zip(specs, states.items(), strict=True):
        print(f"{state:7} {key} {_pairs(spec, varied)}")
    there = sum(state == "cached" for state in states.values())
    print(f"{len(specs)} cells: {there} cached, {len(specs) - there} to run")


def _print_failures(failures: Sequence["Failure"]) -> None:
    for failure in failures[:SHOWN]:
        spec = _flat(failure.spec)
        print(f"failed {failure.key} {_pairs(spec, spec)}")
        print("    " + failure.error.replace("\n", "\n    "))
    if len(failures) > SHOWN:
        print(f"and {len(failures) - SHOWN} more; the folder `failed` beside the results has all, with tracebacks")


def _write_table(path: Path, write: Callable[[Path], Any], read: Callable[[Path], Any]) -> None:
    """Write a table aside and rename it into place, where nothing lies or such a table.

    Raises:
        ValueError: if another file lies there.
    """
    from skilloc import store

    with store.at_work(path):
        if path.exists() and not _is_table(path, read):
            raise WrongValue(
                f'"{path}" is there already, and is no table of a sweep; choose another place, or move it away'
            )
        with store.placed(path) as aside:
            write(aside)


def _is_table(path: Path, read: Callable[[Path], Any]) -> bool:
    try:
        return bool(read(path).index.name == "result")
    except Exception:  # whatever pandas and its engines raise of what is no table
        return False


def _pairs(spec: Mapping[str, Any], names: Iterable[str]) -> str:
    chosen = frozenset(names)
    return " ".join(f"{name}={_text(value)}" for name, value in spec.items() if name in chosen)


def _flat(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _sortable(value: object) -> tuple[str, Any]:
    return ("", value) if isinstance(value, int | float) else (type(value).__name__, _text(value))


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
