"""The `fmce` command, one file a method."""
