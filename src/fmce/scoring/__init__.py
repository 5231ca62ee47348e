"""How mature a module is: statistics of its outputs, and what they amount to on a run never seen."""
