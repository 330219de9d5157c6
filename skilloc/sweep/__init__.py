"""Sweeps: a grid of cells, each run once, in this process, on local workers, or on a Dask cluster."""

from skilloc.sweep.grid import grid, seed_of
from skilloc.sweep.ledger import Failure, Report, Status, status
from skilloc.sweep.run import sweep

__all__ = ["Failure", "Report", "Status", "grid", "seed_of", "status", "sweep"]
