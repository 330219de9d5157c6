import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilloc.masks import Mask, disjoint_draws, drop_top, matched_random, sample, top, top_of_any
from skilloc.units import Bank, Units, heads, neurons

UNITS = Units(
    (
        heads("blocks.0.attn.hook_z", 2, 0),
        neurons("blocks.0.mlp.hook_post", 3, 0),
        neurons("blocks.2.mlp.hook_post", 4, 2),
    )
)


def test_the_axis_runs_forward_and_names_say_where():
    assert UNITS.names == ("L0H0", "L0H1", "L0N0", "L0N1", "L0N2", "L2N0", "L2N1", "L2N2", "L2N3")
    assert UNITS.offsets.tolist() == [0, 2, 5, 9]
    assert UNITS.layers.tolist() == [0] * 5 + [2] * 4
    assert UNITS.kinds == ("head",) * 2 + ("neuron",) * 7
    assert UNITS.locate(6) == ("blocks.2.mlp.hook_post", 1)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_split_and_join_are_inverse(widths):
    units = Units(tuple(neurons(f"blocks.{i}.mlp.hook_post", width, i) for i, width in enumerate(widths)))
    values = np.arange(2 * len(units)).reshape(2, -1)
    np.testing.assert_array_equal(units.join(units.split(values)), values)
    for i, name in enumerate(units.names):
        assert units.named([name]).nonzero()[0].tolist() == [i]
        hook, position = units.locate(i)
        assert units.span(hook).start + position == i
    assert Units.from_record(units.record()) == units


def test_records_of_the_first_version_are_read():
    old = {"hooks": list(UNITS.hooks), "widths": list(UNITS.widths)}
    assert Units.from_record(old) == UNITS
    (toy,) = Units.from_record({"hooks": ["layers.1.hook_post"], "widths": [3]}).banks
    assert toy == neurons("layers.1.hook_post", 3, 1)


def test_places_and_axes_of_a_bank():
    residual = Bank("resid", 4, "residual", -1, "R", writes=("embed", "blocks.0.hook_out"), reads=("ln_final",))
    assert residual.places == ("embed", "blocks.0.hook_out", "ln_final")
    whole = Bank("blocks.0.attn.hook_out", 1, "layer", 0, "L0A", axis=None)
    assert whole.names == ("L0A",)
    for bank in (residual, whole):
        assert Units.from_record(Units((bank,)).record()).banks == (bank,)


def test_parts_of_the_axis():
    assert UNITS.only(["head"]) == Units((heads("blocks.0.attn.hook_z", 2, 0),))
    assert UNITS.in_layers([2]).tolist() == [False] * 5 + [True] * 4


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda: UNITS.only(["residual"]), 'no units of kind "residual" among these 9; use head or neuron'),
        (lambda: UNITS.named(["L9N1"]), "names run from L0H0 to L2N3"),
        (lambda: UNITS.in_layers([1]), r"units lie in layers \[0, 2\]"),
        (lambda: UNITS.span("blocks.7.mlp.hook_post"), "these units lie on"),
        (lambda: UNITS.split(np.zeros(4)), "one entry per unit"),
        (lambda: UNITS.locate(9), "count from 0"),
        (lambda: Units((neurons("a1", 1, 0), neurons("a1", 1, 0))), "each once"),
        (lambda: neurons("a1", 0, 0), "without units"),
        (lambda: Units(()), "give at least one"),
        (lambda: Bank("a1", 3, "channel", 0, "C", axis=2), "count from the end, such as -1"),
        (lambda: Bank("a1", 3, "layer", 0, "L0A", axis=None), "use 1"),
        (lambda: Units((neurons("a1", 1, 0), Bank("a2", 4, "residual", -1, "R"))), "measure one such kind at a time"),
        (lambda: Mask(UNITS, np.ones(3, bool)), "one value per unit"),
        (lambda: top(np.array([1.0, np.nan]), 2), "choose 0 to 1"),
        (lambda: sample(UNITS, 10, seed=0), "choose 0 to 9"),
    ],
)
def test_errors_name_the_cure(call, cure):
    with pytest.raises(ValueError, match=cure):
        call()


def test_top_skips_what_was_not_measured_and_ties_go_to_the_earlier():
    assert top(np.array([1.0, np.nan, 3, 3, -5]), 1).nonzero()[0].tolist() == [2]
    assert top(np.array([1.0, np.nan, 3, 3, -5]), 3).nonzero()[0].tolist() == [0, 2, 3]


def test_top_of_any_takes_every_subtasks_own_top():
    values = np.array([[9.0, 8, 7, 6, 0, 0], [0.0, 0, 0, 0, 0.1, 0.2]])
    assert top_of_any(values, 4).nonzero()[0].tolist() == [0, 1, 4, 5]


def test_mask_algebra():
    a = Mask(UNITS, np.arange(9) < 4)
    b = Mask(UNITS, np.arange(9) % 2 == 0)
    assert (a & b).keep.nonzero()[0].tolist() == [0, 2]
    assert (a | b).keep.nonzero()[0].tolist() == [0, 1, 2, 3, 4, 6, 8]
    assert (a | b).dropped == 2
    assert ((~a).keep == ~a.keep).all()
    with pytest.raises(ValueError, match="combine masks of one model"):
        a & Mask(Units((neurons("blocks.0.mlp.hook_post", 9, 0),)), np.ones(9, bool))


def test_the_random_control_has_equal_size_and_layers():
    mask = drop_top(UNITS, np.array([0, 0, 9, 8, 0, 7, 6, 5, 0.0]), 5)
    other = [matched_random(mask, seed=s) for s in range(20)]
    for control in other:
        for part in map(UNITS.span, UNITS.hooks):
            assert control.keep[part].sum() == mask.keep[part].sum()
    assert len({control.keep.tobytes() for control in other}) > 5
    assert not disjoint_draws(mask)  # five of nine: too few masks are disjoint
    assert (matched_random(mask, seed=3).keep == other[3].keep).all()


@pytest.mark.parametrize("dropped", [12, 25, 50, 88])
def test_a_random_control_shares_no_unit_with_its_mask_where_that_can_be(dropped):
    units = Units((neurons("blocks.0.mlp.hook_post", 100, 0), neurons("blocks.1.mlp.hook_post", 60, 1)))
    mask = drop_top(units, np.random.default_rng(0).standard_normal(160), dropped)
    assert disjoint_draws(mask)
    for seed in range(20):
        control = matched_random(mask, seed=seed)
        for part in map(units.span, units.hooks):
            assert control.keep[part].sum() == mask.keep[part].sum()
            dropped_by_both = (~control.keep & ~mask.keep)[part].sum()
            kept_by_both = (control.keep & mask.keep)[part].sum()
            assert min(dropped_by_both, kept_by_both) == 0


def test_a_mask_that_is_only_a_size_is_matched_from_all_units():
    units = Units((neurons("blocks.0.mlp.hook_post", 100, 0),))
    size = Mask(units, np.arange(100) < 70)
    shared = [(~matched_random(size, seed=seed, disjoint=False).keep & ~size.keep).sum() for seed in range(50)]
    assert np.mean(shared) == pytest.approx(9, abs=1.5)
