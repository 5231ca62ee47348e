"""On a GPU: the teacher's passes are in bfloat16, and distill runs through to its result."""

import pytest
import torch

from fmce.commands.distill import distill
from fmce.commands.teacher import teacher_autocast
from fmce.configs import with_settings
from fmce.engine.runtime import make_runtime
from fmce.matching_config import MatchingConfig

pytest.importorskip("timm")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SMALL = (
    "data={height: 16, width: 24, labelled: 8, unlabelled: 8, held_out: 4, validation: 4}",
    "teacher_steps={steps: 4, batch_size: 4, interval: 2}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "seeds=[1]",
)


@pytest.mark.parametrize(
    ("precision", "expected"), [("auto", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_teachers_passes_have_the_precision_asked_for(precision, expected):
    config = MatchingConfig(teacher_precision=precision)
    x = torch.ones(4, 4, device="cuda")
    with teacher_autocast(config, make_runtime("cuda"))():
        assert (x @ x).dtype == expected


def test_distill_runs_on_the_device_and_its_scores_are_scores(tmp_path):
    config = with_settings(MatchingConfig(), SMALL)
    result = distill(config, tmp_path / "x", runtime=make_runtime("cuda"), quiet=True)
    assert {r["arm"] for r in result["rows"]} == {"supervised", "labelled", "funmatch"}
    assert all(0 <= r["score"] <= 1 for r in result["rows"])
    assert result["networks"]["device"].startswith("cuda")
    assert result["networks"]["student"]["latency_ms"] > 0
