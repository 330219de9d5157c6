"""`python -m skilloc.cli` is `skilloc`."""

from skilloc.cli import main

main()
