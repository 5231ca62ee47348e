"""Loss curves in other people's files."""
