"""One measurement over many workers: the same bytes whoever measures, and whatever happens to him."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from by_hand import started, wait_for

from skilloc import store
from skilloc.ablation.items import keep
from skilloc.circuits.trace import Tracing
from skilloc.cli.machine import Machine
from skilloc.cli.workers import Workers, devices_of
from skilloc.mistakes import WrongValue
from skilloc.models.language import EMBEDDED, Opened, open_model
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure
from skilloc.study.removing import Removing, remove
from skilloc.study.settings import Settings
from skilloc.study.tracing import Choice, trace_study
from skilloc.sweep import Order, Pool, Unfinished, done_items
from skilloc.tasks import Subtask


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("dask")) as file:
        yield file


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """What `sweep_cells.note` does; starts are noted in `starts`, results lie in `out`."""
    for name in ("starts", "out"):
        (tmp_path / name).mkdir()
    return Order("sweep_cells:note", str(tmp_path / "starts"), tmp_path / "out")


def starts(order: Order, x: int) -> int:
    return len(list(Path(order.shared).glob(f"{x}-*")))


def items(**odd: int) -> dict[str, dict[str, int]]:
    """Six items, of which some are odd."""
    return {f"{x}": {"x": x, **{what: 1 for what, which in odd.items() if which == x}} for x in range(6)}


def test_items_are_done_once_each_and_none_after_the_time(order, scheduler_file):
    pool = Pool(scheduler=scheduler_file)
    assert list(done_items(items(), order, pool, until=time.monotonic() - 1)) == []
    assert sorted(done_items(items(), order, pool)) == [f"{x}" for x in range(6)]
    assert [starts(order, x) for x in range(6)] == [1] * 6
    assert all(store.is_complete(order.out / f"{x}") for x in range(6))


def test_an_item_that_raises_ends_the_measurement_with_its_words(order, scheduler_file):
    with pytest.raises(Unfinished, match=r"this one cannot be measured.*the same command goes on") as raised:
        list(done_items(items(raises=2), order, Pool(scheduler=scheduler_file)))
    assert "in note" in str(raised.value.__cause__)


def test_an_item_that_kills_its_workers_is_the_only_one_lost(order, scheduler_file):
    found = []
    with pytest.raises(Unfinished, match=r"1 of 6 items were not finished.*with fewer workers or more memory"):
        found += done_items(items(dies=1), order, Pool(scheduler=scheduler_file))
    assert {path.name for path in order.out.glob("[!.]*")} == {"0", "2", "3", "4", "5"}
    assert starts(order, 1) == 2


@pytest.mark.slow
def test_an_item_that_hangs_is_given_to_an_idle_worker_too(order):
    impatient = replace(order, patience=0.5)
    assert sorted(done_items(items(hangs=3), impatient, Pool(workers=2))) == [f"{x}" for x in range(6)]
    assert [starts(order, x) for x in range(6)] == [1, 1, 1, 2, 1, 1]


def test_results_that_are_not_to_be_seen_here_are_told(order, scheduler_file, monkeypatch):

    from skilloc.sweep import items as spread

    monkeypatch.setattr(spread, "VISIBLE_WITHIN", 0.1)
    blind = replace(order, found=lambda path: False)
    with pytest.raises(Unfinished, match="put `out` on a file system that all workers share"):
        list(done_items(items(), blind, Pool(scheduler=scheduler_file)))


def test_a_worker_that_wakes_up_after_the_end_leaves_nothing(tmp_path):
    from skilloc.sweep.items import run_item

    gone = tmp_path / "gone"
    assert run_item(f'["sweep_cells:note", "{tmp_path}", {{"x": 1}}]', str(gone), "")[0] == "done"
    assert not gone.exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (Workers(workers=2, scheduler="s.json"), "which say themselves how many"),
        (Workers(gpus=("0", "1")), "add --device cuda"),
        (Workers(processes=True, gpus=("0",), workers=1), "add --device cuda"),
        (Workers(workers=-1), "at least 0"),
        (Workers(tls=(Path("a"), Path("b"), Path("c"))), "together with a `scheduler`"),
        (Workers(processes=True, scheduler="s.json"), "exclude each other"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given, said):
    with pytest.raises(WrongValue, match=said):
        given.chosen(Machine())


def test_what_the_options_choose():
    assert Workers(workers=3).chosen(Machine()) == 3
    assert Workers().chosen(Machine(), threads=False) == 1
    with pytest.raises(WrongValue, match="add --processes"):
        Workers(workers=2).chosen(Machine(), threads=False)
    assert Workers(workers=2, processes=True).chosen(Machine()) == Pool(workers=2)
    for name in ("", "[/b]", "0,", "GPU-"):
        with pytest.raises(ValueError, match="give numbers"):
            devices_of((name,))
    assert Workers(gpus=("0,1", "3")).chosen(Machine(device="cuda")) == Pool(gpus=("0", "1", "3"))
    assert Workers(scheduler="s.json").chosen(Machine()) == Pool(scheduler="s.json")
    with pytest.raises(WrongValue, match="spreads one model over all devices"):
        Workers(processes=True).chosen(Machine(device_map="auto"))


def test_the_weights_are_those_of_the_file_so_that_processes_share_them():
    model = open_model("embedded").model
    file = str(EMBEDDED / "model.safetensors")
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(file)]
    mapped = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    places = [parameter.data_ptr() for parameter in model.parameters()]
    assert all(any(low <= place < high for low, high in mapped) for place in places)


# A loss that takes its time, so that a worker can be killed meanwhile.
SETTINGS = Settings(
    sequences=4,
    length=24,
    folds=4,
    reference="mean",
    loss="worker_cells:patient",
    only=tuple(f"L{layer}N{n}" for layer in (1, 3) for n in range(32)) + tuple(f"L2H{n}" for n in range(6)),
)


@pytest.fixture(scope="module")
def embedded() -> tuple[Opened, dict[str, Subtask]]:
    opened = open_model("embedded")
    return opened, subtasks_of(opened, {"python": "python", "english": "english"}, length=24)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def here(embedded, tmp_path_factory) -> dict[str, bytes]:
    """What one thread of this process finds."""
    folder = tmp_path_factory.mktemp("here") / "study"
    measure(*embedded, SETTINGS, folder)
    found = files(folder)
    assert any(name.startswith("effects/") for name in found)
    return found


@pytest.mark.slow
def test_a_study_is_gone_on_with_by_workers_that_were_started_by_hand(embedded, here, tmp_path, scheduler_file):
    folder = tmp_path / "study"
    measure(*embedded, SETTINGS, folder, workers=2, seconds=0.5)
    begun = len(list((folder / "items").glob("[!.]*")))
    assert 0 < begun < 5  # items of 16 neurons, and one of 6 heads
    measure(*embedded, SETTINGS, folder, workers=Pool(scheduler=scheduler_file))
    assert files(folder) == here


@pytest.mark.slow
def test_processes_of_which_one_is_killed_find_the_same_and_threads_go_on(embedded, here, tmp_path):
    folder = tmp_path / "study"
    killed: list[int] = []

    def kill() -> None:
        """Kill whichever worker is in the middle of an item, once another item is finished."""
        wait_for(lambda: any((folder / "items").glob("[!.]*")), seconds=900)
        before = {child.pid: child.cpu_times().user for child in psutil.Process().children(recursive=True)}
        time.sleep(0.2)
        busy = {pid: psutil.Process(pid).cpu_times().user - spent for pid, spent in before.items()}
        killed.append(max(busy, key=busy.__getitem__))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    measure(*embedded, SETTINGS, folder, workers=Pool(workers=2), seconds=None)
    killer.join()
    assert killed
    assert files(folder) == here


@pytest.mark.long
@pytest.mark.parametrize("pool", [1, 2, Pool(workers=1), Pool(workers=2)], ids=str)
def test_nothing_of_a_study_depends_on_who_measures(embedded, here, tmp_path, pool):
    measure(*embedded, SETTINGS, tmp_path / "study", workers=pool)
    assert files(tmp_path / "study") == here


def test_what_other_processes_could_not_make_again_is_refused_before_the_work(embedded, tmp_path):
    opened, subtasks = embedded

    own = {"python": replace(subtasks["python"], made={"family": "text"})}
    with pytest.raises(WrongValue, match=r'"python" has no source .* make it by subtasks_of'):
        measure(opened, own, replace(SETTINGS, loss="cross_entropy"), tmp_path / "study", workers=Pool(workers=1))


@pytest.mark.long
def test_the_heads_of_smollm2_over_two_processes_are_those_of_one(tmp_path):
    try:
        opened = open_model("smollm2")
    except FileNotFoundError:
        pytest.skip("needs `skilloc fetch smollm2`")
    subtasks = subtasks_of(opened, {"python": "python"}, length=16)
    settings = Settings(sequences=2, length=16, folds=2, units=("head",))
    measure(opened, subtasks, settings, tmp_path / "one")
    measure(opened, subtasks, settings, tmp_path / "two", workers=Pool(workers=2))
    assert files(tmp_path / "two") == files(tmp_path / "one")


@pytest.mark.slow
def test_a_removal_is_gone_on_with_by_others(embedded, tmp_path, scheduler_file, monkeypatch):
    opened, subtasks = embedded
    folder = tmp_path / "study"
    effects = measure(opened, subtasks, replace(SETTINGS, loss="cross_entropy"), folder).effects
    config = Removing(sizes=(2, 8), draws=3)
    remove(opened, effects, tmp_path / "here", config=config)
    kept, stop = [], keep

    def stopped(*given):
        stop(*given)
        kept.append(given[1].key)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("skilloc.ablation.items.keep", stopped)
    with pytest.raises(KeyboardInterrupt):
        remove(opened, effects, tmp_path / "there", config=config)
    assert {path.name for path in (tmp_path / "there.items").iterdir()} == set(kept)
    monkeypatch.undo()
    remove(opened, effects, tmp_path / "there", config=config, workers=Pool(scheduler=scheduler_file))
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert {path.name for path in tmp_path.iterdir()} == {"study", "here", "there"}


@pytest.mark.slow
def test_circuits_are_the_same_bytes_whoever_traces_them(embedded, tmp_path, scheduler_file):
    opened, subtasks = embedded
    settings = Settings(sequences=2, length=12, folds=2, reference="mean", units=("head",))
    effects = measure(opened, subtasks, settings, tmp_path / "study").effects
    choice, config = Choice(n=3), Tracing(sizes=(2,), draws=1, edges=2, adds=False)
    trace_study(opened, effects, tmp_path / "here", choice, config)
    # One is there already; the other is left to the workers.
    trace_study(opened, effects, tmp_path / "there", choice._replace(subtasks=("english",)), config)
    found = trace_study(opened, effects, tmp_path / "there", choice, config, workers=Pool(scheduler=scheduler_file))
    assert list(found) == ["python", "english"]
    assert files(tmp_path / "there") == files(tmp_path / "here")
    assert "python.json" in files(tmp_path / "here")


@pytest.mark.slow
def test_another_choice_in_a_used_folder_is_refused_before_anything_is_traced(embedded, tmp_path, monkeypatch):
    opened, subtasks = embedded
    settings = Settings(sequences=4, length=24, folds=4, units=("head",), only=("L1H0", "L1H1"))
    effects = measure(opened, subtasks, settings, tmp_path / "study").effects
    config = Tracing(sizes=(1,), draws=1, edges=0, adds=False)
    trace_study(opened, effects, tmp_path / "circuit", Choice(n=1, subtasks=("english",)), config)
    monkeypatch.setattr("skilloc.study.tracing.trace_circuit", None)  # calling it would fail
    with pytest.raises(WrongValue, match=r"english.json\" holds another circuit \(top 1, .*choose another folder"):
        trace_study(opened, effects, tmp_path / "circuit", Choice(n=2), config)
