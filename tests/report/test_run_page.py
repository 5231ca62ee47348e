"""`fmce report`: one page that needs nothing but itself."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from fmce.config.run import FMCENetConfig
from fmce.digests import read_sealed
from fmce.maturity.explain import explain
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.report.run_page import report_page
from fmce.report.write import report
from fmce.runs.log import judge_metrics
from fmce.runs.phases import run_phases
from fmce.runs.run import open_run


class Page(HTMLParser):
    """Collects tags, what they refer to, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.references, self.images, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data"):
                self.references.append(value)
            if tag == "img" and name == "alt":
                self.images.append(value)

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def full(finished_run, compared, tmp_path_factory):
    """The page of a run with two FMCE-Nets, a comparison and Grad-CAM."""
    folder = tmp_path_factory.mktemp("full")
    shutil.copytree(finished_run.path, folder / "run")
    run = open_run(folder / "run")
    train_fmce_net(run, "image", config=FMCENetConfig(epochs=1))
    explain(run, num_images=2)
    _, comparison, result = compared
    text = report(run.path, comparison=comparison).read_text(encoding="utf-8")
    return run, result, Page(text), text


def test_the_page_refers_to_nothing_outside_itself(full):
    _, _, page, text = full
    assert page.references
    assert all(r.startswith("data:image/png;base64,") for r in page.references)
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text


def test_every_figure_is_there(full):
    assert full[2].images == [
        "Loss curve, CQI and phases",
        "Drift left of each module",
        "Confusion matrix, split image",
        "Confusion matrix, split map",
        "Test accuracy by arm",
        "Grad-CAM over the phases",
    ]


def test_the_module_table_stands_on_top(full):
    _, _, page, text = full
    assert text.index("late drift") < text.index("Loss curve, CQI and phases")
    for name in ("stem", "blocks.2", "head"):
        assert name in page.text


def test_the_numbers_are_those_of_the_files(full):
    run, result, page, _ = full
    assert f"{100 * run.done['test_accuracy']:.2f} %" in page.text
    assert result.against_baseline["verdict"] in page.text
    for arm in result.arms:
        assert f"{100 * arm['mean']:.2f} ± {100 * arm['sd']:.2f} %" in page.text
    for loss in (run.losses[m - 1] for m in run.phases.markers):
        assert f"{loss:.4g}" in page.text


def test_config_versions_and_the_warning_are_there(full):
    run, _, page, _ = full
    assert read_sealed(run.path / "config.yaml") in page.text
    assert "safetensors" in page.text
    assert "another seed's run it is near chance" in page.text


def test_a_bare_run_says_which_parts_are_missing(finished_run, tmp_path):
    config = replace(finished_run.config, train=replace(finished_run.config.train, epochs=1))
    run = train_classifier(config, tmp_path / "r")
    page = Page(report_page(run.path))
    assert page.images == ["Drift left of each module"]
    for said in (
        "No phases were found: 3 phases need at least 4 epochs",
        "No FMCE-Net was trained",
        "No comparison was made",
        "No Grad-CAM was made",
    ):
        assert said in page.text


def test_a_run_that_goes_on_has_a_page(own_run):
    (own_run.path / "DONE.json").unlink()
    with open(own_run.path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 9, "lo')
    page = Page(report_page(own_run.path))
    assert "Loss curve, CQI and phases" in page.images
    assert "test accuracy after" not in page.text


def test_names_from_the_outside_are_escaped(own_run, tmp_path):
    path = own_run.path.rename(tmp_path / "a<script>b")
    page = Page(report_page(path))
    assert "script" not in page.tags
    assert "a<script>b" in page.text


def test_the_page_goes_where_asked_also_into_a_new_folder(own_run, tmp_path):
    path = report(own_run.path, out=tmp_path / "new" / "page.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert not (own_run.path / "report.html").exists()


def test_folders_that_are_not_what_they_should_be_are_refused(own_run, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a run folder"):
        report(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no compare.json; run: fmce compare"):
        report(own_run.path, comparison=own_run.path)


def test_a_mean_over_fewer_seeds_says_of_how_many(finished_run, compared, tmp_path):
    _, _, result = compared
    few = {**result.arms[0], "n": 1, "sd": None, "time_over_baseline": None}
    changed = {**result.to_dict(), "arms": [few, *result.arms[1:]]}
    (tmp_path / "compare.json").write_text(json.dumps(changed))
    text = report_page(finished_run.path, tmp_path)
    assert f"<td>{100 * few['mean']:.2f} % (1 of 2 seeds)</td>" in text
    assert text.count("of 2 seeds") == 1


def test_damaged_files_are_named(own_run):
    (own_run.path / "metrics.jsonl").write_text("")
    report(own_run.path)  # from the checkpoints' own notes
    shutil.rmtree(own_run.path / "checkpoints")
    with pytest.raises(ValueError, match=r"metrics.jsonl is damaged"):
        report(own_run.path)
    (own_run.path / "phases.json").write_text("{}")
    with pytest.raises(ValueError, match=r"phases.json: expected phases"):
        own_run.phases  # noqa: B018
    (own_run.path / "DONE.json").write_text("{")
    with pytest.raises(ValueError, match=r"DONE.json is not valid JSON"):
        report(own_run.path)


def test_parts_of_earlier_markers_are_marked_as_such(finished_run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(finished_run.path, copied)
    explain(open_run(copied), num_images=2)
    earlier = ", ".join(map(str, finished_run.phases.markers))
    notes = (f"was trained on the markers {earlier}, not", f"Drawn for the markers {earlier}, not")
    page = report(copied).read_text(encoding="utf-8")
    assert not any(note in page for note in notes)
    run_phases(copied, {"num_phases": 2})
    page = report(copied).read_text(encoding="utf-8")
    assert all(note in page for note in notes)


def test_the_verdict_is_by_the_settings_that_the_phases_were_found_with(own_run):
    run_phases(own_run.path, {"threshold": 0.2})
    found, by_config = (
        judge_metrics(own_run.curve, settings).lines
        for settings in (own_run.phases.config, own_run.config.phases)
    )
    assert found != by_config
    text = Page(report_page(own_run.path)).text
    assert all(line in text for line in found)


def test_a_lost_record_of_an_fmce_net_is_warned_of(full, tmp_path, caplog):
    run = tmp_path / "run"
    shutil.copytree(full[0].path, run)
    net = next((run / "fmce_net").glob("*/metrics.json"))
    net.unlink()
    report_page(run)
    assert f"{net} is missing; the page is made without it" in caplog.text
