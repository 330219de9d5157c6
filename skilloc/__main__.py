"""`python -m skilloc` is `skilloc`."""

from skilloc.cli import main

main()
