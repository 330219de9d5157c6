"""Sweeps and spread measurements: cells of a grid, or items of one measurement, each done once, in this process, on
local workers, or on a Dask cluster."""

from skilloc.sweep.grid import grid, seed_of
from skilloc.sweep.items import Doing, Order, Unfinished, done_items, hired
from skilloc.sweep.ledger import Failure, Report, Status, status
from skilloc.sweep.pool import Pool
from skilloc.sweep.run import preview, sweep

__all__ = [
    "Doing",
    "Failure",
    "Order",
    "Pool",
    "Report",
    "Status",
    "Unfinished",
    "done_items",
    "grid",
    "hired",
    "preview",
    "seed_of",
    "status",
    "sweep",
]
