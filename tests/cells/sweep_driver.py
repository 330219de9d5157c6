"""A driver in a process of its own: `sweep_driver.py OUT STARTS SECONDS CELLS WORKERS`."""

import sys

import sweep_cells

from skilloc.sweep import Pool, grid, sweep

if __name__ == "__main__":
    out, starts, seconds, cells, workers = sys.argv[1:]
    specs = grid({"starts": starts, "seconds": float(seconds)}, {"x": range(int(cells))})
    report = sweep(sweep_cells.naps, specs, out=out, pool=Pool(workers=int(workers)))
    print(len(report.done), len(report.cached), len(report.failed))
