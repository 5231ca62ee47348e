"""Where a network looks: class activation maps."""
