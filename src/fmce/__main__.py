"""`python -m fmce` is the `fmce` command."""

from fmce.cli.main import main

main()
