"""What is said of SmolLM2 in docs/scale.md, measured on the embedded model and little text."""

import pytest

import scale_smollm2 as scale


@pytest.mark.slow
def test_a_study_has_a_peak_of_memory_and_fails_where_its_bound_is_too_small() -> None:
    found = scale.memory_of(scale.QUICK, scale.EXACT, 4, None)
    assert 0.2 < found["gigabytes"] < 2
    assert found["cpu_seconds"] > 1
    with pytest.raises(ChildProcessError, match=r"--memory 0.1 .*failed"):
        scale.memory_of(scale.QUICK, scale.ESTIMATED, 4, 0.1)


@pytest.mark.long
def test_two_processes_of_which_one_is_killed_leave_the_bytes_of_two_threads() -> None:
    found = scale.heads_of(scale.QUICK)
    assert found["same_bytes"]
    assert found["heads"] == 24
    assert found["files"] > 5
