import time

import numpy as np
import pytest
import torch

from skilloc.tasks import Subtask
from skilloc.tasks.parity import parity_stream, parity_subtasks


def world():
    return parity_subtasks(70, atoms=[[0, 69, 5], [64, 63], [7, 8, 9, 10]], composites=[(2, 0), (0, 1, 2)])


def parity(row, bits):
    return sum(int(row[bit]) for bit in bits) % 2


def test_targets_by_brute_force():
    sets = [[0, 69, 5], [64, 63], [7, 8, 9, 10]]
    needs = {"parity_0": [0], "parity_1": [1], "parity_2": [2], "composite_02": [0, 2], "composite_012": [0, 1, 2]}
    subtasks = world()
    assert list(subtasks) == list(needs)
    for name, code in needs.items():
        batch = subtasks[name].draw(200)
        assert batch.inputs.shape == (200, 73)
        assert batch.inputs.dtype == torch.float32
        control, task = batch.inputs[:, :3], batch.inputs[:, 3:]
        assert (control == torch.tensor([float(i in code) for i in range(3)])).all()
        assert set(task.unique().tolist()) == {0, 1}
        bits = [bit for i in code for bit in sets[i]]
        assert batch.targets.tolist() == [parity(row, bits) for row in task]


def test_consecutive_sets_and_names():
    subtasks = parity_subtasks(40, atoms=12, k=3, composites=[(0, 11)])
    assert list(subtasks)[-2:] == ["parity_11", "composite_0_11"]
    assert subtasks["composite_0_11"].atoms == ("parity_0", "parity_11")
    assert subtasks["parity_0"].atoms == ()
    batch = subtasks["parity_11"].draw(64)
    assert batch.targets.tolist() == [parity(row, [33, 34, 35]) for row in batch.inputs[:, 12:]]


def test_bits_are_uniform_and_independent():
    task = world()["parity_0"].draw(20_000).inputs[:, 3:]
    error = 0.5 / 20_000**0.5
    assert ((task.mean(dim=0) - 0.5).abs() < 4.5 * error).all()
    signs = 2 * task - 1
    correlation = signs.T @ signs / len(task)
    assert (correlation - torch.eye(70)).abs().max() < 5.5 * 2 * error
    rows = torch.unique(task, dim=0)
    assert len(rows) == len(task)


def test_draws_are_pure_and_streams_differ():
    subtasks = world()
    first = subtasks["parity_0"].draw(50, split="train", seed=3)
    subtasks["parity_1"].draw(50)
    assert first.digest == subtasks["parity_0"].draw(50, split="train", seed=3).digest
    other = [
        subtasks["parity_0"].draw(50, split="train", seed=4),
        subtasks["parity_0"].draw(50, split="report", seed=3),
        subtasks["parity_0"].draw(50, split="selection", seed=3),
        subtasks["composite_02"].draw(50, split="train", seed=3),
    ]
    for batch in other:
        assert (batch.inputs[:, 3:] == first.inputs[:, 3:]).float().mean() < 0.6


def test_stream_is_a_function_of_the_step():
    chosen = [world()[name] for name in ("parity_2", "composite_012")]
    stream = parity_stream(chosen, 30, seed=1)
    seen = [(found.inputs.clone(), found.targets.clone()) for found in map(stream, range(3))]
    again = parity_stream(chosen, 30, seed=1)(2)
    assert all(torch.equal(a, b) for a, b in zip(seen[2], (again.inputs, again.targets), strict=True))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(parity_stream(chosen, 30, seed=2)(2).inputs, again.inputs)
    inputs, targets = again.inputs, again.targets
    assert inputs[:, :3].tolist() == [[0, 0, 1]] * 30 + [[1, 1, 1]] * 30
    wanted = [parity(row, [7, 8, 9, 10]) for row in inputs[:30, 3:]]
    wanted += [parity(row, [0, 69, 5, 64, 63, 7, 8, 9, 10]) for row in inputs[30:, 3:]]
    assert targets.tolist() == wanted


def test_stream_fills_the_same_memory():
    stream = parity_stream([world()["parity_0"]], 5, seed=0)
    assert stream(0).inputs.data_ptr() == stream(1).inputs.data_ptr()


def test_stream_is_several_times_faster_than_an_integer_per_bit():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        subtasks = parity_subtasks(64, atoms=4, k=4, composites=[(0, 1, 2, 3)])
        stream = parity_stream(subtasks.values(), 2000, seed=0)

        def seconds(work):
            work(0)
            start = time.process_time()
            for step in range(10):
                work(step)
            return time.process_time() - start

        assert seconds(lambda _: torch.randint(0, 2, (10_000, 64), dtype=torch.float32)) > 4 * seconds(stream)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ({"atoms": 5, "k": 4}, "fewer or smaller atoms, or more bits"),
        ({"atoms": 5}, "or the index sets as `atoms`"),
        ({"atoms": 0, "k": 2}, "at least 1"),
        ({"atoms": [[0, 1], [1, 2]]}, "bit 1 to atoms 0 and 1; give each atom its own bits"),
        ({"atoms": [[0, 16]]}, "use bits from 0 to 15"),
        ({"atoms": [[0], []]}, "at least one"),
        ({"atoms": []}, "at least one index set"),
        ({"atoms": [[0]], "k": 1}, "leave `k` out"),
        ({"atoms": 2, "k": 2, "composites": [(0, 2)]}, "there are atoms 0 to 1"),
        ({"atoms": 2, "k": 2, "composites": [(0,)]}, "at least two different atoms"),
        ({"atoms": 2, "k": 2, "composites": [(0, 0)]}, "at least two different atoms"),
        ({"atoms": 2, "k": 2, "composites": [(0, 1), (1, 0)]}, "each composite once"),
    ],
)
def test_worlds_that_cannot_be(arguments, cure):
    with pytest.raises(ValueError, match=cure):
        parity_subtasks(16, **arguments)


def test_streams_that_cannot_be():
    subtasks = world()
    with pytest.raises(ValueError, match="at least one"):
        parity_stream([], 5, seed=0)
    with pytest.raises(ValueError, match="at least 1 example"):
        parity_stream(subtasks.values(), 0, seed=0)
    with pytest.raises(ValueError, match="one call of parity_subtasks"):
        parity_stream([subtasks["parity_0"], parity_subtasks(70, atoms=2, k=2)["parity_0"]], 5, seed=0)
    with pytest.raises(ValueError, match="use 0 or more"):
        parity_stream(subtasks.values(), 5, seed=-1)
    with pytest.raises(ValueError, match="at least 0"):
        subtasks["parity_0"].draw(5, seed=-1)
    with pytest.raises(ValueError, match="those of parity_subtasks"):
        parity_stream([Subtask("other", subtasks["parity_0"].sample)], 5, seed=0)


def test_uniform_targets_for_every_subtask():
    for subtask in world().values():
        targets = subtask.draw(10_000).targets.numpy()
        assert abs(targets.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(10_000)
