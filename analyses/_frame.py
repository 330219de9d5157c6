"""The frame of an analysis: cells measured into one JSON record, and the figure drawn from that record alone."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed
from tqdm import tqdm

from skilloc import plots, store
from skilloc.sweep import Pool, sweep
from skilloc.training.products import product_advice
from skilloc.training.spread import joined


@dataclass(frozen=True)
class Cells:
    """Runs the cells of an analysis.

    Attributes:
        folder: where their results lie; a result's own folder there is named `store.key(result.spec)`.
        workers: worker processes; 0 for none but this one.
        gpus: CUDA devices, one worker each, instead of workers.
    """

    folder: Path
    workers: int = 0
    gpus: tuple[str, ...] = ()

    def __call__(self, cell: str | Callable[..., Any], specs: Iterable[Any]) -> list[store.Result]:
        """Run what is left of some cells of a cell function, and return all of their results.

        Args:
            cell: the function, or its import path `module:function`.
            specs: one per cell, dataclasses of settings or mappings.

        Raises:
            RuntimeError: if a cell failed; the others are kept.
        """
        specs = list(specs)
        if any(getattr(spec, "products", None) == "bfloat16" for spec in specs):
            tqdm.write(product_advice(), file=sys.stderr)
        report = sweep(cell, specs, out=self.folder, pool=Pool(0 if self.gpus else self.workers, self.gpus))
        for failure in report.failed:
            raise RuntimeError(f"{failure.error}; run the same command again")
        return [store.read(report.out / key) for key in report.keys]


def analyse(
    file: str,
    about: str,
    *,
    scales: Mapping[str, Any],
    measure: Callable[[Any, Cells], dict[str, Any]],
    draw: Callable[[dict[str, Any]], Any],
    arguments: Sequence[str] | None = None,
) -> None:
    """Run an analysis from its command line.

    Args:
        file: the script; the figure and its record have its name.
        about: its docstring.
        scales: what each `--scale` stands for; "cpu" is what lands in `figures/`, the others in the folder of the run.
            Fields whose metadata have a "flag", its help, can be given on the command line; what comes of that lands in
            the folder of the run too.
        measure: from a scale and a way to run cells, a JSON record.
        draw: from that record, the figure.
        arguments: the command line.
    """
    script = Path(file)
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=scales, default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="worker processes; 0 for none but this one")
    parser.add_argument("--gpus", nargs="*", default=[], help="CUDA devices, one worker each, instead of workers")
    parser.add_argument("--runs", type=Path, default=Path("runs") / script.stem, help="folder of the cells")
    parser.add_argument("--figures", type=Path, help="folder of the figure and its record")
    parser.add_argument("--draw-only", action="store_true", help="draw from the record that is there")
    for name, told in _flags(next(iter(scales.values()))).items():
        parser.add_argument(f"--{name}", help=told)
    chosen = parser.parse_args(arguments)
    with joined() as first:
        _run(script, chosen, scales, measure, draw if first else None)


def _flags(scale: Any) -> dict[str, str]:
    """Return the fields of a scale that have a flag, with its help."""
    listed = fields(scale) if is_dataclass(scale) else ()
    return {one.name: one.metadata["flag"] for one in listed if "flag" in one.metadata}


def _run(
    script: Path,
    chosen: argparse.Namespace,
    scales: Mapping[str, Any],
    measure: Callable[[Any, Cells], dict[str, Any]],
    draw: Callable[[dict[str, Any]], Any] | None,
) -> None:
    scale = scales[chosen.scale]
    given = {name: value for name in _flags(scale) if (value := getattr(chosen, name)) is not None}
    ours = chosen.scale == "cpu" and not given
    folder = chosen.figures or (script.parents[1] / "figures" if ours else chosen.runs / chosen.scale)
    record = folder / f"{script.stem}.json"
    if not chosen.draw_only:
        workers = 0 if distributed.is_initialized() else chosen.workers
        found = measure(replace(scale, **given) if given else scale, Cells(chosen.runs, workers, tuple(chosen.gpus)))
        about_run = {
            "scale": chosen.scale,
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
        if draw is not None:
            folder.mkdir(parents=True, exist_ok=True)
            record.write_text(json.dumps({**about_run, **found}) + "\n")
    if draw is None:
        return
    with plots.style():
        figure = draw(json.loads(record.read_text()))
        for ending in ("png", "svg"):
            figure.savefig(record.with_suffix(f".{ending}"), metadata={"Date": None} if ending == "svg" else None)
