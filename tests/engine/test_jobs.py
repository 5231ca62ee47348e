"""Jobs in processes of their own."""

import os
from pathlib import Path

import pytest
import torch

from fmce.console.progress import Progress
from fmce.engine.jobs.local import run_jobs


def write(path, text):
    """A job: importable by the processes that do it."""
    Path(path).write_text(f"{text} {os.getpid()} {torch.get_num_threads()}")
    if text == "fail":
        raise ValueError("this one cannot be done")


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """Run jobs of the given texts and return what each of them wrote."""
    here = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", here)

    def run(*texts):
        with Progress("jobs", len(texts)) as progress:
            given = {t: (str(tmp_path / t), t) for t in texts}
            try:
                run_jobs(write, given, 2, progress)
            finally:
                run.done = progress.done
        return {t: (tmp_path / t).read_text().split() for t in texts}

    return run


def test_every_job_is_done_once_in_another_process(jobs):
    written = jobs("a", "b", "c")
    assert [words[0] for words in written.values()] == ["a", "b", "c"]
    assert str(os.getpid()) not in {words[1] for words in written.values()}
    assert jobs.done == 3


def test_a_job_that_fails_is_named_after_the_others_were_done(jobs, tmp_path):
    with pytest.raises(ValueError, match="1 of 3 trainings failed, first fail: this one cannot"):
        jobs("fail", "b", "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "c", "fail"]
    assert jobs.done == 2


def test_no_jobs_need_no_process(jobs):
    assert jobs() == {}
