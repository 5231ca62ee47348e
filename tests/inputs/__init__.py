"""Files as people have them, on which readers were wrong once; see the tests for the right values."""

from pathlib import Path

INPUTS = Path(__file__).parent
