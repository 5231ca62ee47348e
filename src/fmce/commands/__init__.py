"""One file a command; each reads top to bottom."""
