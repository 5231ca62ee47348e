"""`open_run`: a run read back from its folder."""

import shutil
import weakref
from dataclasses import replace

import pytest
import torch

from fmce.config.io import to_yaml
from fmce.config.run import RuntimeConfig
from fmce.config.sweep import SweepConfig
from fmce.convergence.phases import find_phases
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.extract import extract
from fmce.feature_maps.extractor import MapExtractor, map_extractor
from fmce.maturity.evaluate import evaluate
from fmce.maturity.fmcs import fmcs
from fmce.maturity.phases import run_phases
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.models.fmce_net import FMCENet
from fmce.report.write import report
from fmce.runs.run import check_same_data, open_run

CPU = make_runtime("cpu")


def test_a_run_gives_config_curve_phases_and_checkpoints(finished_run):
    run = open_run(finished_run.path)
    assert run.config == finished_run.config
    assert [row["epoch"] for row in run.curve] == run.epochs == list(range(1, 9))
    assert run.losses == [row["loss"] for row in run.curve]
    assert run.learning_rates[0] == 5e-3
    assert run.done["markers"] == list(run.phases.markers)


def test_phases_are_those_of_the_curve(finished_run):
    rates = finished_run.learning_rates
    found = find_phases(finished_run.losses, finished_run.config.phases, learning_rates=rates)
    assert finished_run.phases == found


def test_the_task_loss_is_the_curve_where_a_second_loss_was_added(own_run):
    shutil.rmtree(own_run.path / "checkpoints")
    (own_run.path / "DONE.json").unlink()
    (own_run.path / "metrics.jsonl").write_text('{"epoch": 1, "loss": 3.0, "task_loss": 2.0}\n')
    assert own_run.losses == [2.0]


def test_a_model_has_the_weights_of_its_epoch_in_eval_mode(finished_run):
    first, last = finished_run.model(1), finished_run.model(8)
    assert not first.training
    assert not torch.equal(first.head.weight, last.head.weight)
    file = finished_run.path / "checkpoints" / "epoch_0008" / "model.safetensors"
    assert torch.equal(finished_run.model_from(file).head.weight, last.head.weight)


def test_an_extractor_gives_the_taps_maps_of_a_frozen_model(finished_run):
    extract = map_extractor(finished_run, 3, CPU)
    images = torch.randn(4, 3, 8, 8)
    model, seen = finished_run.model(3), []
    model.blocks[2].register_forward_hook(lambda _m, _i, output: seen.append(output))
    model(images)
    maps = extract(images)
    assert maps.shape == (4, 16, 2, 2)
    torch.testing.assert_close(maps, seen[0])
    assert not maps.requires_grad
    assert not any(p.requires_grad for p in extract.model.parameters())


def test_an_extractor_keeps_no_maps(finished_run):
    extract = map_extractor(finished_run, 3, CPU)
    maps = weakref.ref(extract(torch.zeros(1, 3, 8, 8)))
    assert maps() is None


LATER = {
    "train-net": lambda run: train_fmce_net(run, "image"),
    "evaluate": lambda run: evaluate(run, others=[run]),
    "fmcs": lambda run: fmcs(run, epoch=3),
    "extract": lambda run: extract(run),
}


@pytest.mark.parametrize("command", LATER)
def test_later_commands_map_images_in_the_memory_order_and_tf32_of_the_training(
    own_run, monkeypatch, command
):
    how = RuntimeConfig(channels_last=True, tf32=True)
    run = replace(own_run, config=replace(own_run.config, runtime=how))
    (run.path / "config.yaml").write_text(to_yaml(run.config))
    seen = []
    plain = MapExtractor.__init__

    def noting(self, model, layer, runtime, origin):
        order = model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
        seen.append((runtime.channels_last, runtime.tf32, order))
        plain(self, model, layer, runtime, origin)

    monkeypatch.setattr(MapExtractor, "__init__", noting)
    LATER[command](run)
    assert set(seen) == {(True, True, True)}


def test_an_extractor_in_half_precision_gives_float32(finished_run):
    half = make_runtime("cpu", "bfloat16")
    extract = MapExtractor(finished_run.model(3), finished_run.setup.layer, half)
    assert extract(torch.zeros(1, 3, 8, 8)).dtype == torch.float32


def test_images_are_plain_and_batches_agree_with_them(finished_run):
    test = finished_run.setup.data.test
    one = finished_run.setup.images(test, CPU)(torch.tensor([5, 2]))
    batch = next(iter(finished_run.setup.batches(test, CPU).epoch()))
    assert torch.equal(one, batch.images[[5, 2]])
    assert one.shape == (2, 3, 8, 8)


def test_the_fmce_net_is_an_fmce_net_that_names_its_run(finished_run):
    net = finished_run.fmce_net("map")
    assert isinstance(net, FMCENet)
    assert (net.map_shape, net.num_phases, net.training) == ((16, 2, 2), 3, False)
    assert net.trained_on == str(finished_run.path)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.model(99), "available epochs: 1, 2, 3, 4, 5, 6, 7, 8"),
        (lambda run: run.fmce_net("run"), "run: fmce train-net .* --split run"),
        (lambda run: open_run(run.path / "nowhere"), "no run folder .*fmce train --out"),
        (lambda run: open_run(run.path / "checkpoints"), "is not a run folder"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(finished_run, ask, message):
    with pytest.raises(FileNotFoundError, match=message):
        ask(finished_run)


def test_missing_phases_are_named_with_the_command_that_makes_them(own_run):
    (own_run.path / "phases.json").unlink()
    with pytest.raises(FileNotFoundError, match="run: fmce phases"):
        _ = own_run.phases


def test_a_damaged_fmce_net_is_named_with_the_command_that_makes_it_anew(own_run):
    file = own_run.fmce_net_file("map")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"delete {file.parent} and run: fmce train-net"):
        own_run.fmce_net("map")


def test_weights_of_another_model_are_refused(finished_run):
    net = finished_run.path / "fmce_net" / "map" / "fmce_net.safetensors"
    with pytest.raises(ValueError, match="does not fit the model 'tiny'"):
        finished_run.model_from(net)


def test_the_same_data_may_be_named_by_path_or_by_the_environment(
    finished_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("FMCE_DATA", str(tmp_path))

    def at(root):
        config = finished_run.config
        return replace(config, data=replace(config.data, root=root))

    for root in (str(tmp_path), f"{tmp_path}/../{tmp_path.name}/"):
        check_same_data(at(root), finished_run)
    with pytest.raises(ValueError, match=f"data.root is '/elsewhere' here and '{tmp_path}' in"):
        check_same_data(at("/elsewhere"), finished_run)


def test_a_folder_of_another_command_is_named_as_such(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(SweepConfig()))
    for read in (open_run, run_phases, report):
        with pytest.raises(ValueError, match=rf"{tmp_path} is not a run folder .* has 'rafs'"):
            read(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_phases_that_a_finished_run_had_are_missed(own_run):
    (own_run.path / "phases.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no phases\.json; run: fmce phases"):
        own_run.has_phases  # noqa: B018
    (own_run.path / "DONE.json").unlink()
    assert not own_run.has_phases
