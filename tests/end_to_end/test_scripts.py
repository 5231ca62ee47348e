"""A user's script calls the library; what trains in other processes must work there too."""

import subprocess
import sys

import pytest

# As people write scripts: no `if __name__ == "__main__"` around the call.
SCRIPT = """
import sys
from pathlib import Path

from fmce.config.distillation import DistillationConfig
from fmce.config.io import with_settings
from fmce.distillation.distill import distill

print("started")
config = with_settings(DistillationConfig(), sys.argv[2:])
result = distill(config, Path(sys.argv[1]), jobs=2)
print([row["arm"] for row in result["rows"]])
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_trains_in_other_processes(tmp_path, small_distillation):
    pytest.importorskip("timm")
    script = tmp_path / "mine.py"
    script.write_text(SCRIPT)
    settings = [*small_distillation, "seeds=[1]", "arms=[supervised, function_matching]"]
    arguments = [sys.executable, script, tmp_path / "out", *settings]
    done = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("started") == 1
    assert "['supervised', 'function_matching']" in done.stdout
