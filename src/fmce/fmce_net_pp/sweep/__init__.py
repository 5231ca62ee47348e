"""The engine of comparisons and sweeps: groups of trainings, their selection, results and status."""
