"""Loss curves: smoothing, CQI, convergence phases. Needs numpy only."""
