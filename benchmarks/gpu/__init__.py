"""Everything a GPU is needed for, in one bounded run: tests, speeds, rows of the papers."""
