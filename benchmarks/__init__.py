"""Speed as ratios to bare PyTorch loops: `python -m benchmarks.step_overhead` from the repository root."""
