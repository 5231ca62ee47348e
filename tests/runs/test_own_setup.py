"""The commands of method 1 on a run that a recorder wrote."""

import shutil
import sys

import pytest
import torch

from fmce import PhaseConfig, Recorder, evaluate, open_run, train_fmce_net
from fmce.cli.main import main
from fmce.config.run import FMCENetConfig
from fmce.feature_maps.extract import extract
from fmce.files import read_json
from fmce.maturity.explain import explain
from fmce.maturity.fmcs import fmcs
from tests.recorder.loops import Small, digits, made, train_epoch

CODE = """
from tests.recorder.loops import Small as build, digits

def data():
    images, targets = digits()
    return {"train": (images[:200], targets[:200]), "test": (images[200:260], targets[200:260])}
"""


def data():
    images, targets = digits()
    return {"train": (images[:200], targets[:200]), "test": (images[200:260], targets[200:260])}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own") / "run"
    model, optimizer = made()
    phases = PhaseConfig(num_phases=2, threshold=0.12)
    with Recorder(
        folder, model, probe=digits()[0][:16], optimizer=optimizer, phases=phases
    ) as recorder:
        for _ in range(14):
            train_epoch(model, optimizer, recorder)
            recorder.end_epoch()
    return folder


def opened(folder):
    return open_run(folder, model=Small, data=data)


def test_method_1_on_a_recorded_run(folder):
    run = opened(folder)
    assert run.setup.layer == "late"
    assert len(run.epochs) == 8
    metrics = train_fmce_net(run, "image", config=FMCENetConfig(epochs=2))
    assert metrics["map_shape"] == [16, 2, 2]
    found = evaluate(run, "image")
    assert [row["phase"] for row in found["classifier"]] == [1, 2]
    assert found["classifier"][1]["test_accuracy"] > 0.5
    assert fmcs(run, epoch=run.marker_epochs[0], split="image")["true_phase"] == 1
    assert explain(run, num_images=2)["classes"] == [
        str(int(t)) for t in sorted(data()["test"][1])[:1]
    ] + ["1"]


def test_the_same_by_the_command_line(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "mynet.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("mynet", None)
    own = ["--model", "mynet:build", "--data", "mynet:data"]
    for arguments in (
        ["extract", folder, *own],
        ["train-net", folder, *own, "--split", "map", "--set", "epochs=1"],
        ["evaluate", folder, *own],
        ["fmcs", folder, *own, "--epoch", "14"],
        ["explain", folder, *own, "--images", "2"],
        ["report", folder],
        ["phases", folder],
        ["modules", folder],
        ["watch", folder, "--once"],
    ):
        main([str(a) for a in arguments])
    out = capsys.readouterr().out
    assert "late" in out
    assert "verdict:" in out
    assert "late drift" in (folder / "report.html").read_text()
    assert read_json(folder / "phases.json")


def test_stored_maps_of_an_own_network_give_the_same_fmce_net(folder, tmp_path):
    shutil.copytree(
        folder, tmp_path / "run", ignore=shutil.ignore_patterns("fmce_net", "maps.zarr")
    )
    run = opened(tmp_path / "run")
    told = extract(run, workers=1)
    assert told["maps"] == 2 * 260
    assert told["map_shape"] == [16, 2, 2]
    # Of thinned checkpoints, the kept ones stand for the markers.
    names = sorted(p.name for p in (run.path / "maps.zarr").iterdir())
    assert names == [f"epoch_{epoch:04d}" for epoch in run.marker_epochs]
    stored = train_fmce_net(run, "map", config=FMCENetConfig(epochs=1, storage="stored"))
    assert stored["map_shape"] == [16, 2, 2]
    with pytest.raises(ValueError, match="--model module:function --data module:function"):
        extract(open_run(tmp_path / "run"))


def test_without_the_model_it_is_asked_for(folder):
    with pytest.raises(ValueError, match="--model module:function --data module:function"):
        train_fmce_net(open_run(folder), "image")
    with pytest.raises(ValueError, match="both its model and its data"):
        open_run(folder, model=Small)


def test_another_model_or_layer_is_refused(folder):
    with pytest.raises(ValueError, match="does not fit the model Small"):
        open_run(folder, model=lambda: torch.nn.Linear(2, 2), data=data).model(14)
    with pytest.raises(ValueError, match="near matches: late"):
        _ = open_run(folder, model=Small, data=data, layer="lat").setup.layer


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test": ()}, 'with "train"'),
        ({"train": torch.zeros(3)}, "expected 'train'"),
        ({"train": (torch.zeros(3, 1, 8, 8, dtype=torch.uint8), None)}, "float"),
        (
            {"train": (torch.zeros(3, 1, 8, 8), torch.zeros(2))},
            "a class index for each of 3 images",
        ),
    ],
)
def test_data_of_another_form_is_refused(folder, given, message):
    with pytest.raises(ValueError, match=message):
        _ = open_run(folder, model=Small, data=given).setup.data


def test_images_without_classes_train_an_fmce_net_all_the_same(folder):
    run = open_run(folder, model=Small(), data={"train": (digits()[0][:100], None)})
    assert len(run.setup.data.test) == 20
    metrics = train_fmce_net(run, "test", config=FMCENetConfig(epochs=1))
    assert metrics["test_images"]["accuracy"] >= 0
    assert evaluate(run, "test")["classifier"] == []
    with pytest.raises(ValueError, match="needs the class"):
        explain(run, num_images=2)


def test_a_run_of_fmce_train_knows_its_model(finished_run):
    with pytest.raises(ValueError, match="leave them out"):
        open_run(finished_run.path, model=Small, data=data)
