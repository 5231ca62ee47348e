"""The demo in its shape, on a smaller network with fewer epochs; `make demo` runs it as it is."""

import pytest

from fmce.cli.show_maturity import show_demo
from fmce.console.log import show_messages
from fmce.demo import demo
from fmce.engine.runtime import make_runtime
from fmce.runs.run import open_run


@pytest.mark.slow
def test_the_demo_goes_from_training_to_report_and_repeats_nothing(
    finished_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("fmce.demo.preset", lambda name: {"digits": finished_run.config}[name])
    show_messages()
    result = demo(tmp_path / "demo", runtime=make_runtime("cpu"))
    show_demo(result)
    run = open_run(tmp_path / "demo" / "original")
    assert run.losses == finished_run.losses
    out = capsys.readouterr().out
    assert f"phase markers       {list(run.phases.markers)}" in out
    for said in ("5/5 report", "test accuracy", "unseen images", "over 3 seeds", "at RAF 0."):
        assert said in out
    text = result.report.read_text(encoding="utf-8")
    assert text.count("<img ") == 6
    assert out.rindex("late drift") < out.rindex(
        "verdict: "
    )  # it ends with the modules and the verdict
    assert text.index("verdict: ") < text.index("late drift") < text.index("<h2>")
    assert "No " not in text.split("<h2>Config")[0]  # no part is missing

    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("epoch_*/*")}
    demo(tmp_path / "demo", runtime=make_runtime("cpu"))
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "demo").rglob("epoch_*/*")} == written
    assert capsys.readouterr().out.count("is finished already") == 1
