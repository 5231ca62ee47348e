"""Networks of the original task, their feature maps, and the networks that score maps."""
