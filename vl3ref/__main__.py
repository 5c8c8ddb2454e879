"""`python -m vl3ref`: the command line."""

from vl3ref.cli import main

main()
