"""Made-up runs: losses that fall like a power, and statistics that follow them with noise."""

import numpy as np

from fmce.scoring.history import ModuleHistory


def history(
    seed, epochs=40, noise=0.05, statistics=("probe_margin", "probe_loss", "fisher"), **about
):
    """Return a module's history; each statistic is another monotone function of the log loss."""
    rng = np.random.default_rng(seed)
    place = np.arange(1, epochs + 1) / epochs
    losses = 2.3 * np.exp(-(2 + seed % 3) * place ** (0.5 + 0.1 * (seed % 4)))
    losses *= np.exp(rng.normal(0, 0.01, epochs))
    measured = np.unique(np.r_[1:6, 6 : epochs + 1 : 3, epochs])
    values, twin = {}, {}
    for n, name in enumerate(statistics):
        sign = 1 if n % 2 else -1
        logs = np.log(2.3 / losses[measured - 1])
        values[name] = sign * logs ** (1 + 0.1 * n) + rng.normal(0, noise, len(measured))
        twin[name] = 0.0
    described = {"data": f"set {seed % 3}", "architecture": f"net {seed % 4}"} | about
    return ModuleHistory(
        f"run {seed}", "head", measured, values, twin, losses, planned=epochs, about=described
    )


def histories(count=12, **options):
    """Return the histories of several runs."""
    return [history(seed, **options) for seed in range(count)]
