"""One script per published table or figure: `python -m experiments.fmce_table1` from the repository root."""
