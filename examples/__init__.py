"""Examples that run as they are; each prints a module table and writes a report."""
