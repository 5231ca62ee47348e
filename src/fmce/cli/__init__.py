"""The `fmce` command: one file per method, and one that shows each method's results."""
