"""Which tests are slow, from a run that was timed: python tests/timed.py junit.xml, after make test with

    PYTEST_ADDOPTS=--junitxml=junit.xml

It writes `slow.txt`: the tests, without their parameters, of which one takes longer than `LONGEST`. `make test-fast`
leaves them out, as it does those that are marked by hand.
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

LONGEST = 0.06
"""Seconds."""

LIST = Path(__file__).parent / "slow.txt"


def named(module: str, name: str) -> str:
    """Return how the list calls a test: its module and function, without parameters."""
    return f"{module.removeprefix('tests.')}:{name.partition('[')[0]}"


def main(junit: str) -> None:
    """Read the times, write the list."""
    cases = ElementTree.parse(junit).getroot().iter("testcase")
    slow = {named(c.get("classname", ""), c.get("name", "")) for c in cases if float(c.get("time", 0)) > LONGEST}
    LIST.write_text("".join(f"{name}\n" for name in sorted(slow)))


if __name__ == "__main__":
    main(sys.argv[1])
