"""Sweeps: a grid of cells, each run once, in this process, on local workers, or on a Dask cluster."""

from skilloc.sweep.grid import grid, seed_of
from skilloc.sweep.ledger import Failure, Report, Status, status
from skilloc.sweep.pool import Pool
from skilloc.sweep.run import preview, sweep

__all__ = ["Failure", "Pool", "Report", "Status", "grid", "preview", "seed_of", "status", "sweep"]
