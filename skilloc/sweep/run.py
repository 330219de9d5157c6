"""Run each cell of a sweep once, wherever it is told to."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.mistakes import WrongType
from skilloc.sweep.cells import Outcome, home_of, load, name_of, run_cell, stored_spec
from skilloc.sweep.ledger import Ledger, Report
from skilloc.sweep.pool import HERE, Pool
from skilloc.sweep.progress import Progress
from skilloc.sweep.stopping import stoppable


def sweep(
    cell: str | Callable[..., Outcome],
    specs: Iterable[Any],
    *,
    out: str | Path,
    pool: Pool = HERE,
    progress: bool = True,
) -> Report:
    """Run a cell function on every spec, once: what `out` holds already is not run again.

    The result of a spec lies in `out/KEY`, where KEY is `store.key` of the spec with `cell` and `threads` added. A
    cell function takes a spec and returns metrics, or metrics and arrays; it draws all its randomness from the spec.
    If its first argument is annotated with a dataclass, it is given that. If it has an argument `results`, it is given
    the folder of the results there, in which it reads those of other cells by their keys: no spec needs a path.
    A cell that fails is noted in `out/failed` and tried again by the next run; the others go on.

    Args:
        cell: the cell function, or its import path `module:function`. Workers import it: what is no package must lie
            where they see it under the same path.
        specs: one per cell, mappings, for instance from `grid`, or dataclasses of settings; equal ones are run once.
        out: the folder for the results; workers elsewhere must see it under the same path.
        pool: where they run.
        progress: whether to show the progress on stderr.

    Raises:
        TypeError: if a spec cannot be stored, or the cell function cannot be imported by name.
        OSError: if `out` cannot be written.
        ConnectionError: if the scheduler does not answer, or is lost on the way; finished cells are kept.
        KeyboardInterrupt: on Ctrl-C, with a message that says what is kept.
    """
    ledger, name = _ledger(cell, specs, out, pool.each), name_of(cell)
    # Two sweeps may work in one folder. The first holds it, and clears what killed ones left.
    with store.at_work_if_free(ledger.out, inside=True):
        _run(ledger, name, pool, shown=progress)
    return ledger.report()


def _run(ledger: Ledger, name: str, pool: Pool, *, shown: bool) -> None:
    """Run the cells that are left."""
    left = ledger.look_up()
    if left:
        home = _home(name)
        with _kept(ledger) as check_stopped, Progress(len(ledger.specs), ledger.counts(), shown=shown) as bar:

            def heard(key: str, word: str, error: str, traceback: str) -> None:
                ledger.note(key, word, error, traceback)
                bar.show(ledger.counts())

            if not pool.elsewhere:
                for key, text in left.items():
                    heard(key, *run_cell(text, str(ledger.out), home))
            else:
                # Late: a call with everything cached, and one in this process, need no engine.
                from skilloc.sweep import engine
                from skilloc.sweep.clients import client_of

                with client_of(pool) as client:
                    engine.run_cells(client, left, ledger.out, heard, check_stopped, home=home)
        ledger.check_visible()


def preview(
    cell: str | Callable[..., Outcome],
    specs: Iterable[Any],
    *,
    out: str | Path,
    pool: Pool = HERE,
) -> dict[str, str]:
    """Return what `sweep` would find of each cell, by key: "cached", "left" to run, or "damaged". Nothing is changed.

    Args, and errors, as of `sweep`.
    """
    return _ledger(cell, specs, out, pool.each).states()


def _ledger(cell: str | Callable[..., Outcome], specs: Iterable[Any], out: str | Path, threads: int) -> Ledger:
    name = name_of(cell)
    return Ledger(Path(out).resolve(), [stored_spec(name, spec, threads) for spec in specs])


@contextlib.contextmanager
def _kept(ledger: Ledger) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C say what is kept and how to go on."""
    try:
        with stoppable() as check:
            yield check
    except KeyboardInterrupt:
        there = sum(store.is_complete(ledger.out / key) for key in ledger.specs)
        raise KeyboardInterrupt(
            f"{there} of {len(ledger.specs)} cells are finished and kept in {ledger.out}; run the same sweep again for "
            "the others"
        ) from None


def _home(name: str) -> str:
    """Import the cell function here first, so that a wrong name is one error and not one per cell; return its home."""
    try:
        load(name)
        return home_of(name)
    except (ImportError, AttributeError) as error:
        raise WrongType(f"`cell`: no function at {name!r} ({error}); pass its import path 'module:function'") from error
