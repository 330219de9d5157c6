"""The examples in the docstrings of public names run, and each name that can be called has one."""

import doctest
import inspect

import pytest

import skilloc

NAMES = [name for name in skilloc.__all__ if not inspect.ismodule(getattr(skilloc, name))]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name: str) -> None:
    found = getattr(skilloc, name)
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(found), {}, name, None, None)
    assert examples.examples, f"{name} has no example"
    said: list[str] = []
    done = doctest.DocTestRunner(optionflags=FLAGS).run(examples, out=said.append)
    assert done.failed == 0, "".join(said)
