import pytest
import torch

from skilloc.tasks.corpora import Document
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.tasks.streams import stream
from skilloc.tasks.text import text_subtask

PARITY = parity_subtasks(10, atoms=2, k=2, composites=[(0, 1)])


def text(name, *, first, length=4):
    """A subtask of documents whose tokens say which document they are from."""
    documents = [Document(f"{name} {first + i} is a text", f"{name}{i}") for i in range(60)]
    return text_subtask(
        name, documents, lambda found: [[int(t.split()[1])] * (2 * length + 2) for t in found], length=length
    )


CATS, DOGS = text("cats", first=0), text("dogs", first=100)


def equal(a, b):
    return a.digest == b.digest


def test_parity_is_the_parity_stream():
    mine, theirs = stream(PARITY.values(), 20, seed=3), parity_stream(PARITY.values(), 20, seed=3)
    for step in (0, 7):
        assert equal(mine(step), theirs(step))


@pytest.mark.parametrize("pool", [None, 7])
def test_a_step_of_text_is_a_pure_function_of_the_step(pool):
    one, again, other = (stream([CATS, DOGS], 5, seed=seed, pool=pool) for seed in (0, 0, 1))
    late = again(9)
    assert equal(late, one(9))
    assert not equal(late, one(8))
    assert not equal(late, other(9))
    assert late.inputs.shape == late.targets.shape == (10, 4)
    assert (late.inputs[:5] < 100).all()
    assert (late.inputs[5:] >= 100).all()


def test_text_comes_from_the_train_split_only():
    train = {int(row[0]) for row in CATS.draw(80, split="train").inputs}
    held_out = {int(row[0]) for split in ("selection", "report") for row in CATS.draw(4, split=split).inputs}
    seen = {int(token) for step in range(60) for token in stream([CATS], 20, seed=0)(step).inputs.flatten()}
    assert len(seen) > 30
    assert train <= seen
    assert not seen & held_out


@pytest.mark.parametrize("each", [3, 10, 25])
def test_a_pool_is_seen_whole_once_per_epoch_and_shuffled(each):
    """Pools of 10: whatever the size of a step, each run of 10 examples holds every example once."""
    subtask = PARITY["parity_0"]
    pool = {tuple(row) for row in subtask.draw(10, split="train", seed=2).inputs.tolist()}
    sample = stream([subtask], each, seed=2, pool=10)
    rows = [tuple(row) for step in range(-(-100 // each)) for row in sample(step).inputs.tolist()][:100]
    epochs = [rows[i : i + 10] for i in range(0, 100, 10)]
    assert all(set(epoch) == pool for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_targets_stay_with_their_inputs():
    found = stream(PARITY.values(), 50, seed=0, pool=30)(4)
    sets = [[0, 1], [2, 3], [0, 1, 2, 3]]
    for s, bits in enumerate(sets):
        part = slice(50 * s, 50 * s + 50)
        assert torch.equal(found.inputs[part][:, [2 + bit for bit in bits]].sum(dim=1).long() % 2, found.targets[part])


def test_a_pool_holds_no_held_out_example():
    subtask = parity_subtasks(40, atoms=1, k=2)["parity_0"]
    rows = {tuple(row) for row in stream([subtask], 50, seed=0, pool=50)(0).inputs.tolist()}
    for split in ("selection", "report"):
        assert not rows & {tuple(row) for row in subtask.draw(500, split=split, seed=0).inputs.tolist()}
    fresh = {tuple(row) for row in stream([subtask], 500, seed=0)(0).inputs.tolist()}
    assert not rows & fresh


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda: stream([], 5, seed=0), "at least one"),
        (lambda: stream([CATS], 0, seed=0), "at least 1"),
        (lambda: stream([CATS], 5, seed=0, pool=0), "at least 1"),
        (lambda: stream([CATS], 5, seed=-1), "0 or more"),
        (lambda: stream([CATS], 5, seed=0, pool=10_000), "pass more documents"),
        (lambda: stream([CATS, text("long", first=0, length=6)], 2, seed=0)(0), "one length"),
        (lambda: stream([CATS, PARITY["parity_0"]], 2, seed=0), "no parity subtask; pass those"),
        (lambda: stream([CATS, PARITY["parity_0"]], 2, seed=0, pool=4)(0), "one parity world"),
    ],
)
def test_what_cannot_be_streamed(call, cure):
    with pytest.raises(ValueError, match=cure):
        call()
