"""Any training loop, recorded: curve, checkpoints, alarms, and each module's own clock."""
