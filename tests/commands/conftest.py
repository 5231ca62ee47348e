"""One small finished function-matching experiment, shared."""

import pytest

SMALL_MATCHING = (
    "data.height=16",
    "data.width=24",
    "data.labelled=8",
    "data.unlabelled=8",
    "data.held_out=4",
    "data.validation=4",
    "teacher_steps={steps: 4, batch_size: 4, interval: 2}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "student.options={encoder_options: {channels: [4, 4, 4, 8], stem_width: 4}}",
    "seeds=[1, 2]",
)


@pytest.fixture(scope="session")
def small_matching():
    """Settings of that experiment."""
    return list(SMALL_MATCHING)


@pytest.fixture(scope="session")
def experiment(tmp_path_factory, small_matching):
    """Its folder: scenes, three arms, two seeds; never change it."""
    pytest.importorskip("timm")
    from fmce.commands.distill import distill
    from fmce.configs import with_settings
    from fmce.matching_config import MatchingConfig

    out = tmp_path_factory.mktemp("distill") / "scenes"
    distill(with_settings(MatchingConfig(), small_matching), out, jobs=2, quiet=True)
    return out
