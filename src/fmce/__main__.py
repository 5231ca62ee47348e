"""`python -m fmce` is the `fmce` command."""

from fmce.cli import main

main()
