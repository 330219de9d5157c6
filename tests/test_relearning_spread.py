"""The runs of an attack on many workers: the same bytes whoever attacks, and each goes on with what others left."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from by_hand import started

from skilloc import Mask, store, units_of
from skilloc.cli import main
from skilloc.mistakes import WrongValue
from skilloc.models.language import open_model
from skilloc.models.makers import save_model
from skilloc.models.mlp import MLP
from skilloc.pruning import prune
from skilloc.relearning import NEVER, ORIGINAL, WAYS, Grid, Way, relearn_probe
from skilloc.relearning.question import probe_of
from skilloc.relearning.spread import Part, SeedRuns, do_part, spread_runs
from skilloc.study.attacking import Attack, AttackSettings, shared_by_parts
from skilloc.study.draws import subtasks_of
from skilloc.study.relearning import attack_models
from skilloc.study.world import save_world
from skilloc.sweep import Pool
from skilloc.tasks.losses import custom
from skilloc.tasks.parity import parity_subtasks

pytestmark = pytest.mark.filterwarnings("ignore:.*widen `rates`", "ignore:.*there is one rate")

NAMES = ("verse", "code")
SOME = ("as it is", "repaired", "first map of the original", "8 bits")
GRID = Grid(
    ways=tuple(way for way in WAYS if way.name in SOME),
    rates=(1e-3, 1e-2),
    budgets=(1, 3),
    examples=4,
    held_out=8,
    folds=4,
    repair=2,
)
KEPT, GONE = parity_subtasks(4, atoms=2, k=2).values()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def scheduler_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with started(tmp_path_factory.mktemp("dask")) as file:
        yield file


def halved(model):
    units = units_of(model, kinds=["neuron"])
    return prune(model, Mask(units, np.arange(len(units)) % 2 > 0))


@pytest.fixture(scope="module")
def texts(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Attack:
    """A tiny language model without half of its neurons, and two subtasks of texts."""
    folder = tmp_path_factory.mktemp("texts")
    opened = open_model(saved)
    save_model(halved(opened.model), folder / "smaller", tokenizer=opened.tokenizer)
    for name, text in zip(NAMES, ("the cat sat on the mat", "def f(x): return x"), strict=True):
        (folder / name).mkdir()
        for i in range(120):
            (folder / name / f"{i}.txt").write_text(f"{text} {i} " * 4)
    subtasks = subtasks_of(opened, {name: str(folder / name) for name in NAMES}, length=8)
    settings = AttackSettings("code", grid=GRID, seeds=(0, 1))
    return Attack(opened, {"smaller": open_model(folder / "smaller")}, subtasks, settings, {})


@pytest.fixture(scope="module")
def parity(tmp_path_factory: pytest.TempPathFactory) -> Attack:
    """A network of a parity world without half of its neurons, and one that is said never to have seen."""
    folder = tmp_path_factory.mktemp("parity")
    network = MLP(6, 2, 12, 3, seed=0)
    for name, model in {"large": network, "small": halved(network), "unseen": MLP(6, 2, 12, 3, seed=5)}.items():
        save_model(model, folder / name)
    save_world([KEPT, GONE], folder / "large")
    large, small, unseen = (open_model(folder / name) for name in ("large", "small", "unseen"))
    subtasks = subtasks_of(large, {"kept": KEPT.name, "gone": GONE.name})
    return Attack(
        large, {"small": small}, subtasks, AttackSettings("gone", grid=GRID, seeds=(0, 1)), {"never saw": unseen}
    )


def attacked(attack: Attack, out: Path, workers: int | Pool = 1) -> dict[str, bytes]:
    attack_models(
        attack.original, attack.pruned, out, attack.subtasks, attack.settings, others=attack.others, workers=workers
    )
    return files(out)


def test_parts_that_are_done_apart_are_all_that_a_probe_needs(tmp_path, monkeypatch):
    models = {name: MLP(6, 2, width, 3, seed=width) for name, width in {ORIGINAL: 9, NEVER: 6, "pruned": 4}.items()}
    models["equal"] = models["pruned"]
    relearn_probe(models, [GONE], GONE, GRID, (1,), kept=[KEPT], out=tmp_path / "together")
    probe = probe_of(models, ([GONE], GONE, [KEPT]), GRID, (1,), tmp_path / "apart")
    waves: list[int] = []

    def do(parts: Sequence[Part]) -> None:
        waves.append(len(parts))
        for part in reversed(parts):  # the order does not matter, and nothing is shared between parts
            do_part(SeedRuns(probe, 0), part)

    spread_runs(probe, do)
    # Repairs of three different models with a seed; then two rates and what trains nothing.
    assert waves == [3, 3, 0]
    assert files(tmp_path / "apart") == files(tmp_path / "together")
    monkeypatch.setattr("skilloc.relearning.doing.attack_all", None)  # calling it would fail
    monkeypatch.setattr("skilloc.relearning.runs.repair", None)
    relearn_probe(models, [GONE], GONE, GRID, (1,), kept=[KEPT], out=tmp_path / "apart")


def test_a_part_about_other_runs_is_refused(tmp_path):
    models = {name: MLP(6, 2, width, 3, seed=width) for name, width in {ORIGINAL: 9, NEVER: 6, "pruned": 4}.items()}
    probe = probe_of(models, ([GONE], GONE, [KEPT]), GRID, (0,), tmp_path)
    with pytest.raises(WrongValue, match="the same files, libraries and type of processor"):
        do_part(SeedRuns(probe, 0), Part(0, ("pruned",), ("0123456789abcdef",)))


@pytest.mark.slow
def test_an_attack_on_a_language_model_is_the_same_bytes_whoever_attacks(texts, tmp_path, scheduler_file, monkeypatch):
    monkeypatch.setattr("skilloc.relearning.listed.SHORT", 0)  # what is tried first is not all tried further
    here = attacked(texts, tmp_path / "here")
    assert "smaller/manifest.json" in here
    write, written = store.write, []

    def stopped(*given):
        write(*given)
        written.append(given)
        if len(written) == 12:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("skilloc.relearning.kept_runs.store.write", stopped)
        with pytest.raises(KeyboardInterrupt):
            attacked(texts, tmp_path / "there")
    assert len(list((tmp_path / "there" / "runs").iterdir())) == 11  # and the request
    assert attacked(texts, tmp_path / "there", Pool(scheduler=scheduler_file)) == here
    # The other way round: what workers have left, this process goes on with, and another single worker.
    for workers in (1, Pool(workers=1)):
        for run in sorted((tmp_path / "there" / "runs").iterdir())[isinstance(workers, int) :: 2]:
            shutil.rmtree(run)
        shutil.rmtree(tmp_path / "there" / "smaller")
        assert attacked(texts, tmp_path / "there", workers) == here


@pytest.mark.slow
def test_an_attack_on_small_networks_is_the_same_bytes_whoever_attacks(parity, tmp_path, scheduler_file):
    # Networks that never saw the subtask are trained, by each worker, or cut to the candidate's shape.
    for name, others in {"trained": {}, "cut": parity.others}.items():
        attack = parity._replace(others=others)
        here = attacked(attack, tmp_path / f"{name} here")
        assert attacked(attack, tmp_path / name, Pool(scheduler=scheduler_file)) == here
        # Networks are rounded by how many stand side by side, so that what is missing is done in the same company.
        for workers in (1, Pool(workers=1)):
            for run in sorted((tmp_path / name / "runs").iterdir())[::3]:
                shutil.rmtree(run)
            for pruned in attack.pruned:
                shutil.rmtree(tmp_path / name / pruned)
            assert attacked(attack, tmp_path / name, workers) == here


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"subtasks": "source"}, r'"code" has no source .* make it by subtasks_of'),
        ({"loss": custom(lambda logits, examples: logits.mean((1, 2)), chance=1.0)}, "function of your own"),
        ({"ways": (Way("mine"),)}, "other processes do not know it; leave it out"),
    ],
    ids=["texts", "loss", "way"],
)
def test_what_other_processes_could_not_make_again_is_refused_before_the_work(texts, tmp_path, change, said):
    attack = texts
    if "subtasks" in change:
        subtasks = {**attack.subtasks, "code": replace(attack.subtasks["code"], made={"family": "text"})}
        attack = attack._replace(subtasks=subtasks)
    else:
        attack = attack._replace(settings=replace(attack.settings, grid=replace(GRID, **change)))
    with pytest.raises(WrongValue, match=said):
        attacked(attack, tmp_path / "out", Pool(workers=1))
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--self-test", "--processes"), "trains its networks in this process"),
        (
            ("a", "b", "--attack", "c", "--out", "d", "--workers", "2"),
            "threads cannot share this work; add --processes",
        ),
        (("a", "b", "--attack", "c", "--out", "d", "--gpus", "0"), "add --device cuda"),
    ],
)
def test_options_that_cannot_be_used_are_refused(given, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["relearn", *given])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_what_is_told_has_an_order_where_that_counts(texts):
    told = [texts._replace(subtasks={name: texts.subtasks[name] for name in names}) for names in (NAMES, NAMES[::-1])]
    assert shared_by_parts(told[0]) != shared_by_parts(told[1])
