import inspect

import pytest
import torch

from skilloc.tasks import IGNORE, Examples, Subtask

TOKENS = torch.arange(12).view(3, 4)


def count_up(n, split, seed):
    start = {"train": 0, "selection": 1000, "report": 2000}[split] + seed
    tokens = torch.arange(start, start + 5 * n).view(n, 5)
    return Examples(tokens[:, :-1], tokens[:, 1:])


def test_examples_know_their_scored_targets():
    assert int(Examples(TOKENS, TOKENS).scored.sum()) == 12
    assert int(Examples(TOKENS, torch.where(TOKENS % 4 == 0, IGNORE, TOKENS)).scored.sum()) == 9
    assert int(Examples(torch.zeros(3, 7), torch.tensor([0, 1, 0])).scored.sum()) == 3
    assert len(Examples(TOKENS, TOKENS)) == 3


def test_digest_names_the_exact_examples():
    digest = Examples(TOKENS, TOKENS).digest
    assert digest == Examples(TOKENS.clone(), TOKENS.t().contiguous().t()).digest  # values, not memory
    others = [
        Examples(TOKENS, TOKENS.flip(0)),
        Examples(TOKENS.flip(0), TOKENS),
        Examples(TOKENS.int(), TOKENS),
        Examples(TOKENS.view(4, 3), TOKENS.view(4, 3)),
    ]
    assert len({digest, *(other.digest for other in others)}) == 5


def unchecked(inputs, targets):
    """Examples made as outside of the tests, where shapes are checked by the class alone."""
    made = object.__new__(Examples)
    given = {"inputs": inputs, "targets": targets, "fields": {}, "at": {}, "paired": None, "owner": None}
    for name, value in given.items():
        object.__setattr__(made, name, value)
    inspect.unwrap(Examples.__post_init__)(made)


def test_examples_whose_parts_do_not_belong_together():
    with pytest.raises(ValueError, match="one row of targets per example"):
        unchecked(TOKENS, TOKENS[:2])
    with pytest.raises(ValueError, match="at least one example"):
        unchecked(TOKENS[:0], TOKENS[:0])
    with pytest.raises(ValueError, match="the next token of every position"):
        unchecked(TOKENS, TOKENS[:, :3])
    with pytest.raises(ValueError, match="example 1; give each example at least one target"):
        unchecked(TOKENS, torch.where(torch.arange(3)[:, None] == 1, IGNORE, TOKENS))


def test_moving_examples_keeps_them():
    batch = Examples(TOKENS, TOKENS)
    assert batch.to("cpu").digest == batch.digest


def test_draw_is_by_split_and_seed():
    subtask = Subtask("counting", count_up)
    assert subtask.draw(2).inputs[0].tolist() == [2000, 2001, 2002, 2003]
    assert subtask.draw(2, split="train", seed=3).targets[1].tolist() == [9, 10, 11, 12]


def test_draws_that_cannot_be():
    subtask = Subtask("counting", count_up)
    with pytest.raises(ValueError, match="at least 1"):
        subtask.draw(0)
    with pytest.raises(ValueError, match="use one of train, selection, report"):
        inspect.unwrap(Subtask.draw)(subtask, 1, split="test")
