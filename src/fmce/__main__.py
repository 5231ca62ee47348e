"""`python -m fmce` is the `fmce` command, which imports nothing from the folder it is called in."""

import sys

if not sys.flags.safe_path:  # Python put that folder first
    del sys.path[0]

from fmce.cli.main import main

main()
