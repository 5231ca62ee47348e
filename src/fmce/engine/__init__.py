"""Training loop, device, processes that train together or side by side: knows nothing of what is trained."""
