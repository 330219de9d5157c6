"""One run in two processes is the run of one: lasso, recovery and distillation, replicated and in shards."""

import multiprocessing
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import distributed

import skilloc as sk
from skilloc.lasso import LocalizeConfig, localize
from skilloc.models.makers import face_of
from skilloc.pruning import keep
from skilloc.tasks import IGNORE, Examples, stream
from skilloc.training import Checkpoints, Spread, TrainConfig, train
from skilloc.training.distilling import Teaching, distil

pytestmark = pytest.mark.slow

WORLD = sk.parity_subtasks(6, atoms=2, k=2)
TRAINING = TrainConfig(steps=12, rate=3e-3, evaluate_every=6)
WAYS = [Spread(way, accumulate) for way in ("replicated", "sharded") for accumulate in (1, 4)]
SHARDS = Spread("sharded", 4)


def in_processes(folder, count, job):
    """Run a job in so many processes, joined by gloo, and return what each of them returns."""
    context = multiprocessing.get_context("fork")  # which has everything imported already
    made = [context.Process(target=_joined, args=(folder, place, count, job), daemon=True) for place in range(count)]
    for process in made:
        process.start()
    for process in made:
        process.join(120)
    assert [process.exitcode for process in made] == [0] * count, "a process failed, or they wait for each other"
    return [torch.load(folder / f"{place}.pt", weights_only=False) for place in range(count)]


def _joined(folder, place, count, job):
    torch.set_num_threads(1)
    store = f"file://{folder}/store_{count}_{os.getppid()}"
    distributed.init_process_group("gloo", init_method=store, rank=place, world_size=count)
    torch.save(job(), folder / f"{place}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def network(seed=0):
    return sk.MLP(8, 2, width=13, depth=3, seed=seed)  # widths that two processes cannot share out evenly


def sample(examples=16):
    return stream(WORLD.values(), examples, seed=0)


def lasso(training, solver="proximal"):
    training = replace(training, rate=2e-2)
    config = LocalizeConfig(training, strength=0.005, solver=solver, threshold=0.6, examples=32, held_out=50)
    found, history = localize(network(), [WORLD["parity_0"]], config, seed=0, watched=[WORLD["parity_1"]])
    return weights(found), history.record()


def recovery(training):
    model, units = network(), sk.units_of(network())
    rule = keep(model, sk.Mask(units, np.arange(len(units)) % 3 > 0))
    history = train(model, sample(), replace(training, clip=0.5), evaluate={"all": sample()(99)}, rules=[rule])
    return weights(model), history.record()


def distillation(training):
    student, teacher = network(1), sk.MLP(8, 2, width=20, depth=3, seed=2)
    how = Teaching(2.0, 0.5)
    history = distil(student, teacher, sample(), training, evaluate={"all": sample()(99)}, how=how)
    return weights(student), history.record()


def subgradient(training):
    return lasso(training, "subgradient")


JOBS = {job.__name__: job for job in (lasso, recovery, distillation, subgradient)}


def all_ways():
    return {(name, way): job(replace(TRAINING, spread=way)) for name, job in JOBS.items() for way in WAYS}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_processes(tmp_path_factory.mktemp("two"), 2, all_ways)


def same(found, wanted):
    assert found[0].keys() == wanted[0].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, wanted[0][name], atol=1e-6, rtol=0, msg=name)
        assert torch.equal(value == 0, wanted[0][name] == 0), name
    assert found[1].keys() == wanted[1].keys()
    for column, values in found[1].items():
        assert values == pytest.approx(wanted[1][column], abs=2e-5), column


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.way}-{way.accumulate}")
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_are_one(two, name, way):
    alone = JOBS[name](TRAINING)
    for found in two:
        same(found[name, way], alone)
    if name in ("lasso", "recovery"):
        zeros = sum(int((value == 0).sum()) for value in alone[0].values())
        assert zeros > 20, "nothing died"


def test_pieces_are_a_step(two):
    for name, job in JOBS.items():
        same(job(replace(TRAINING, spread=Spread(accumulate=4))), two[0][name, WAYS[0]])


def unequal():
    """Language with unequally many scored targets, so that a mean of means would be another number."""
    torch.manual_seed(0)
    targets = torch.randint(0, 5, (8, 6))
    for row in range(8):
        targets[row, 1 + row // 2 :] = IGNORE
    return Examples(torch.randn(8, 6, 7), targets)


class Words(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.outer = torch.nn.Linear(7, 9), torch.nn.Linear(9, 5)

    def forward(self, x):
        return self.outer(torch.relu(self.inner(x)))


def described():
    return sk.describe(Words(), units={"neurons": sk.At("inner", axis=-1)}, example=torch.randn(2, 6, 7))


def test_targets_count_alike_wherever_they_are(tmp_path):
    config = TrainConfig(steps=4, rate=1e-2, evaluate_every=4)

    def job(spread):
        model, batch = described(), unequal()
        train(model, lambda step: batch, replace(config, spread=spread), evaluate={"all": batch})
        return weights(model)

    alone = job(Spread())
    for found in in_processes(tmp_path, 2, lambda: job(Spread("replicated"))):
        for name, value in found.items():
            torch.testing.assert_close(value, alone[name], atol=1e-6, rtol=0)


def interrupted(folder, spread, steps):
    config = replace(TRAINING, steps=steps, spread=spread)
    model, units = network(), sk.units_of(network())
    rule = keep(model, sk.Mask(units, np.arange(len(units)) % 3 > 0))
    train(model, sample(), config, evaluate={}, rules=[rule], checkpoints=Checkpoints(folder, 1))
    return weights(model)


@pytest.mark.parametrize("way", ["replicated", "sharded"])
def test_a_run_goes_on_from_its_checkpoint(tmp_path, way):
    """Six steps in two processes, then the rest alone, from the same folder."""
    first = replace(TRAINING, spread=Spread(way))

    def job():
        model = network()
        rule = keep(model, sk.Mask(sk.units_of(model), np.arange(26) % 3 > 0))
        kept = Checkpoints(tmp_path / "kept", 1)
        stopping = _Stop(7)
        with pytest.raises(KeyboardInterrupt):
            train(model, stopping, first, evaluate={}, rules=[rule], checkpoints=kept)

    in_processes(tmp_path, 2, job)
    went_on = interrupted(tmp_path / "kept", Spread(), TRAINING.steps)
    whole = interrupted(tmp_path / "whole", Spread(), TRAINING.steps)
    for name, value in went_on.items():
        torch.testing.assert_close(value, whole[name], atol=1e-6, rtol=0)


class _Stop:
    def __init__(self, at):
        self.at, self.sample = at, sample()

    def __call__(self, step):
        if step == self.at:
            raise KeyboardInterrupt
        return self.sample(step)


def llama_lasso(llama, spread, products):
    training = replace(TRAINING, steps=4, evaluate_every=4, spread=spread, products=products)
    generator = torch.Generator().manual_seed(0)

    def draw(count, seed):
        tokens = torch.randint(0, 61, (count, 9), generator=torch.Generator().manual_seed(seed))
        return Examples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    batches = [draw(16, int(torch.randint(1000, (), generator=generator))) for _ in range(4)]
    model = face_of(llama).copy().requires_grad_(True)
    with torch.no_grad():
        for hook in sk.units_of(model).hooks:
            for part in face_of(model).group(hook).values():
                part[:2] *= 0.01  # these units die first
    config = LocalizeConfig(training, strength=1.0)
    rule = sk.lasso.proximal.Lasso(model, sk.units_of(model, kinds=("neuron", "head")), config, ["all"])
    history = train(model, lambda step: batches[step], training, evaluate={"all": draw(8, 3)}, rules=[rule])
    return weights(model), history.record()


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_a_language_model_in_shards(llama, tmp_path, products):
    """With bfloat16, shards keep float32 masters, and one process in shards is the yardstick: norms are rounded too."""

    def job(spread):
        return lambda: llama_lasso(llama, spread, products)

    two = in_processes(tmp_path, 2, job(Spread("sharded", 2)))
    one = in_processes(tmp_path, 1, job(SHARDS))[0]
    for found in two:
        same(found, one)
    assert {value.dtype for value in one[0].values()} == {torch.float32}
    assert one[1]["live"][-1] < one[1]["live"][0]
    if products == "float32":
        same(one, llama_lasso(llama, Spread(), products))


def test_what_cannot_be_spread_is_refused():
    with pytest.raises(ValueError, match="no processes are joined; start them with torchrun"):
        lasso(replace(TRAINING, spread=Spread("replicated")))
    with pytest.raises(ValueError, match=r"cuts it into 5 pieces .* use a multiple of 5"):
        lasso(replace(TRAINING, spread=Spread(accumulate=5)))
    wrong = Spread()
    object.__setattr__(wrong, "way", "split")  # past the type checks of the tests
    with pytest.raises(ValueError, match='unknown `way` "split"; use one of alone, replicated, sharded'):
        wrong.__post_init__()
    module = torch.nn.Sequential(torch.nn.Linear(7, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 5))
    model = sk.describe(module, units={"neurons": sk.At("0", axis=-1)}, example=torch.randn(4, 7))
    batch = Examples(torch.randn(4, 7), torch.randint(0, 5, (4,)))
    config = TrainConfig(steps=1, spread=Spread(accumulate=2))
    with pytest.raises(ValueError, match="by their own mean"):
        train(model, lambda step: batch, config, evaluate={})


def test_how_a_run_is_spread_does_not_name_it():
    assert replace(TRAINING, spread=SHARDS).record() == TRAINING.record()
