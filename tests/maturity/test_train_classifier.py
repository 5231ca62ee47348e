"""`fmce train` as a function: what a run folder holds, and who may go on in it."""

import math
import shutil
from dataclasses import replace

import pytest
import torch

from fmce.config.io import from_yaml
from fmce.config.run import AuxiliaryConfig, FMCENetConfig, ModelConfig, RunConfig
from fmce.convergence.phases import PhaseConfig
from fmce.digests import file_digest
from fmce.engine.loop import TrainingStoppedError
from fmce.engine.runtime import make_runtime
from fmce.maturity.auxiliary import load_oracle
from fmce.maturity.train_classifier import train_classifier
from fmce.maturity.train_fmce_net import train_fmce_net
from fmce.models.fmce_net import FMCENet
from fmce.recorder.status import current_cqi
from fmce.runs.checkpoint import checkpoint_path, load_checkpoint, load_weights
from fmce.runs.phases import run_phases
from fmce.runs.run import open_run
from fmce.tasks.classification import evaluate_classifier


def short(run, *, epochs=2, auxiliary=None, **changes):
    config = run.config
    if auxiliary is not None:
        changes = {"seed": 3, **changes}  # the oracle's own is refused
    train_section = replace(config.train, epochs=epochs, **changes)
    return replace(config, train=train_section, auxiliary=auxiliary or AuxiliaryConfig())


def with_oracle(run, **options):
    return AuxiliaryConfig(**{"kind": "ral", "oracle": str(run.path), "raf": 0.5, **options})


def last_weights(run):
    return load_weights(checkpoint_path(run.path / "checkpoints", run.epochs[-1]))


def equal(one, other):
    return all(torch.equal(one[k], other[k]) for k in one)


def stamps(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


def test_lines_agree_with_checkpoints_and_the_curve(finished_run):
    for row in finished_run.curve:
        checkpoint = load_checkpoint(
            checkpoint_path(finished_run.path / "checkpoints", row["epoch"])
        )
        assert checkpoint.meta["metrics"] == row
    losses, config = finished_run.losses, finished_run.config.phases
    expected = [current_cqi(losses[:n], config) for n in range(1, 9)]
    assert [row["cqi"] for row in finished_run.curve] == expected
    assert expected[0] is None
    assert expected[-1] == pytest.approx(
        (abs(losses[7] - losses[6]) + abs(losses[6] - losses[5])) / 2
    )


def test_validation_scores_are_of_the_epochs_weights(finished_run):
    row, runtime = finished_run.curve[4], make_runtime("cpu")
    batches = finished_run.setup.batches(finished_run.setup.data.validation, runtime)
    scores = evaluate_classifier(finished_run.model(5), batches, runtime)
    assert (row["validation_loss"], row["validation_accuracy"]) == pytest.approx(scores)


def test_it_learns_and_the_test_is_read_once_at_the_end(finished_run):
    assert finished_run.losses[-1] < 0.7 * finished_run.losses[0]
    assert 0.5 < finished_run.done["test_accuracy"] <= 1
    assert "test_accuracy" not in finished_run.curve[-1]


def test_the_config_on_disk_is_the_run(finished_run):
    assert from_yaml(RunConfig, finished_run.path / "config.yaml") == finished_run.config


def test_a_finished_run_is_not_repeated(own_run, caplog):
    caplog.set_level("INFO", "fmce")
    before = stamps(own_run.path)
    train_classifier(own_run.config, own_run.path)
    assert stamps(own_run.path) == before
    assert "is finished already (8 epochs)" in caplog.text


def test_more_epochs_of_a_finished_run_are_refused(own_run):
    before = stamps(own_run.path)
    with pytest.raises(FileExistsError, match=r"train\.epochs: 8 in the folder, 9 now"):
        train_classifier(short(own_run, epochs=9), own_run.path)
    assert stamps(own_run.path) == before


def test_a_run_that_lost_its_end_goes_on_to_the_same_weights(own_run, finished_run, caplog):
    caplog.set_level("INFO", "fmce")
    (own_run.path / "DONE.json").unlink()
    newest = checkpoint_path(own_run.path / "checkpoints", 8) / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-5])
    train_classifier(own_run.config, own_run.path)
    assert "damaged checkpoint, epoch 8" in caplog.text
    assert f"resuming {own_run.path} after epoch 7" in caplog.text
    assert equal(last_weights(own_run), last_weights(finished_run))
    assert own_run.done == finished_run.done
    assert own_run.losses == finished_run.losses


def test_keep_markers_deletes_all_but_first_markers_and_last(finished_run, tmp_path):
    run = train_classifier(finished_run.config, tmp_path / "kept", keep="markers")
    assert run.epochs == sorted({1, 8, *run.phases.markers})
    assert run.phases == finished_run.phases
    assert len(run.curve) == 8
    assert equal(last_weights(run), last_weights(finished_run))


def test_without_phases_all_is_kept_and_the_reason_said(finished_run, tmp_path):
    run = train_classifier(short(finished_run), tmp_path / "r", keep="markers", read_test=False)
    assert run.epochs == [1, 2]
    assert "3 phases need at least 4 epochs" in run.done["no_phases_because"]
    assert not run.has_phases
    assert "test_accuracy" not in run.done


def test_where_a_curve_was_long_enough_other_phases_need_no_new_training(
    finished_run, tmp_path, caplog
):
    caplog.set_level("INFO", "fmce")
    section = replace(finished_run.config.phases, threshold=50, if_not_converged="error")
    config = replace(short(finished_run, epochs=4), phases=section)
    run = train_classifier(config, tmp_path / "r")
    assert "no phases: CQI is never above the threshold (50)" in caplog.text
    assert f"fmce phases {run.path} --threshold MU" in caplog.text
    run_phases(run.path, {"threshold": 0.1, "if_not_converged": "last"})
    assert run.has_phases


def test_the_seed_decides_the_weights(finished_run, other_run, tmp_path):
    first = load_weights(checkpoint_path(finished_run.path / "checkpoints", 1))
    other = load_weights(checkpoint_path(other_run.path / "checkpoints", 1))
    assert not equal(first, other)
    again = train_classifier(short(finished_run, epochs=1, schedule="constant"), tmp_path / "r")
    assert equal(last_weights(again), first)  # cosine's first epoch is at the peak too


def test_raf_1_trains_the_plain_runs_weights_bit_for_bit(finished_run, tmp_path):
    """Both arms start from the same weights and see the same images in the same order."""
    plain = train_classifier(short(finished_run, seed=3), tmp_path / "plain")
    for kind in ("ral", "feature_matching"):
        auxiliary = with_oracle(finished_run, kind=kind, raf=1.0)
        arm = train_classifier(short(finished_run, seed=3, auxiliary=auxiliary), tmp_path / kind)
        assert equal(last_weights(arm), last_weights(plain))
        assert arm.losses == pytest.approx(plain.losses, rel=1e-6)


def test_with_an_oracle_the_line_holds_both_losses_and_the_curve_is_the_tasks(
    finished_run, tmp_path
):
    auxiliary = with_oracle(finished_run, raf=0.75)
    run = train_classifier(short(finished_run, seed=3, auxiliary=auxiliary), tmp_path / "r")
    for row in run.curve:
        mixed = 0.75 * row["task_loss"] + 0.25 * row["auxiliary_loss"]
        assert row["loss"] == pytest.approx(mixed, rel=1e-5)
    assert run.losses == [row["task_loss"] for row in run.curve]
    assert run.curve[-1]["auxiliary_loss"] < run.curve[0]["auxiliary_loss"]


def test_raf_0_leaves_the_head_as_it_was_drawn(finished_run, tmp_path):
    auxiliary = with_oracle(finished_run, raf=0.0)
    run = train_classifier(short(finished_run, auxiliary=auxiliary), tmp_path / "r")
    first, last = run.model(1), run.model(2)
    assert torch.equal(first.head.weight, last.head.weight)
    assert not torch.equal(first.stem[0].weight, last.stem[0].weight)


def test_a_random_oracle_differs_from_the_trained_and_draws_by_the_runs_seed(finished_run):
    random = AuxiliaryConfig("ral", str(finished_run.path), raf=0.5, oracle_weights="random")
    trained = load_oracle(with_oracle(finished_run), finished_run, 3)
    one, same, other = (load_oracle(random, finished_run, seed) for seed in (3, 3, 4))
    assert equal(one.state_dict(), same.state_dict())
    for another in (trained, other):
        assert not torch.equal(one.head.weight, another.head.weight)
    assert one.map_shape == trained.map_shape
    assert not one.training
    assert not any(p.requires_grad for p in one.parameters())


def test_a_training_leaves_the_oracles_run_untouched(finished_run, tmp_path):
    before = stamps(finished_run.path)
    auxiliary = with_oracle(finished_run)
    train_classifier(short(finished_run, epochs=1, auxiliary=auxiliary), tmp_path / "r")
    assert stamps(finished_run.path) == before


def test_an_oracle_for_maps_of_another_shape_is_refused_and_no_folder_claimed(
    finished_run, own_run, tmp_path
):
    FMCENet((16, 4, 4), 3).save(own_run.fmce_net_folder("map") / "fmce_net.safetensors")
    config = short(finished_run, auxiliary=with_oracle(own_run))
    with pytest.raises(ValueError, match=r"maps are \(16, 2, 2\) but .* takes \(16, 4, 4\)"):
        train_classifier(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_feature_matching_needs_the_oracles_own_model(finished_run, tmp_path):
    config = short(finished_run, auxiliary=with_oracle(finished_run, kind="feature_matching"))
    config = replace(config, model=replace(config.model, options={"width": 8}))
    with pytest.raises(ValueError, match="needs the oracle run's own model and image size"):
        train_classifier(config, tmp_path / "r")


def test_an_arm_may_start_from_the_oracles_converged_weights(finished_run, tmp_path):
    auxiliary = with_oracle(finished_run, init="checkpoint", raf=1.0)
    config = short(finished_run, epochs=1, auxiliary=auxiliary, learning_rate=1e-9)
    run = train_classifier(config, tmp_path / "r")
    start = finished_run.model(finished_run.phases.convergence_epoch)
    torch.testing.assert_close(run.model(1).head.weight, start.head.weight, rtol=0, atol=1e-6)


def test_the_oracles_own_seed_is_refused_unless_asked_for(finished_run, tmp_path):
    seed = finished_run.config.train.seed
    config = short(finished_run, epochs=1, auxiliary=with_oracle(finished_run), seed=seed)
    with pytest.raises(ValueError, match="is the oracle's own"):
        train_classifier(config, tmp_path / "r")
    auxiliary = with_oracle(finished_run, same_seed=True)
    config = short(finished_run, epochs=1, auxiliary=auxiliary, seed=seed)
    assert train_classifier(config, tmp_path / "r").done


def test_an_oracle_of_other_images_is_refused(finished_run, tmp_path):
    config = short(finished_run, auxiliary=with_oracle(finished_run))
    config = replace(config, data=replace(config.data, split_seed=1))
    with pytest.raises(ValueError, match=r"data.split_seed is 1 here and 0 in"):
        train_classifier(config, tmp_path / "r")


def test_an_oracle_trained_anew_is_noticed_on_resume(own_run, tmp_path):
    config = short(own_run, epochs=1, auxiliary=with_oracle(own_run))
    run = train_classifier(config, tmp_path / "r")
    assert len(run.config.auxiliary.oracle_digest) == 64
    net = own_run.fmce_net("map")
    torch.nn.init.zeros_(net.head.bias)
    net.save(own_run.fmce_net_file("map"))
    with pytest.raises(FileExistsError, match="oracle_digest"):
        train_classifier(config, tmp_path / "r")


def test_an_oracle_of_other_markers_is_refused(own_run, tmp_path):
    from fmce.runs.phases import run_phases

    run_phases(own_run.path, {"num_phases": 2})
    with pytest.raises(ValueError, match=r"was trained on markers .* but phases.json now has"):
        train_classifier(short(own_run, auxiliary=with_oracle(own_run)), tmp_path / "r")


def test_keep_last_never_has_more_checkpoints_than_a_resume_needs(
    finished_run, tmp_path, monkeypatch
):
    counts = []

    def scores(*arguments):
        counts.append(len(list((tmp_path / "run" / "checkpoints").glob("epoch_*"))))
        return evaluate_classifier(*arguments)

    monkeypatch.setattr("fmce.maturity.train_classifier.evaluate_classifier", scores)
    run = train_classifier(short(finished_run, epochs=5, seed=4), tmp_path / "run", keep="last")
    assert counts == [0, 1, 2, 2, 2, 2]  # at each epoch's end, and before the test images
    assert run.epochs == [5]


def test_keep_markers_holds_for_a_finished_run_too(own_run):
    train_classifier(own_run.config, own_run.path, keep="markers")
    wanted = {1, own_run.config.train.epochs, *own_run.phases.markers}
    assert set(own_run.epochs) == wanted


def test_a_tap_that_gives_no_map_is_refused_before_an_epoch_is_spent(finished_run, tmp_path):
    config = short(finished_run)
    config = replace(config, model=replace(config.model, layer="head"))
    with pytest.raises(ValueError, match="expected one 4-d tensor"):
        train_classifier(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_target_phase_that_the_oracle_lacks_is_refused(finished_run, tmp_path):
    config = short(finished_run, auxiliary=with_oracle(finished_run, target_phase=4))
    with pytest.raises(ValueError, match="target_phase must be in 1…3, the oracle's phases, got 4"):
        train_classifier(config, tmp_path / "r")


def test_an_unknown_tap_is_refused_before_an_epoch_is_spent(finished_run, tmp_path):
    config = short(finished_run)
    config = replace(config, model=replace(config.model, layer="blocks.9"))
    with pytest.raises(ValueError, match=r"has no submodule 'blocks.9'; near matches: blocks"):
        train_classifier(config, tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_a_loss_that_is_not_finite_stops_and_keeps_what_was_whole(finished_run, tmp_path):
    config = short(finished_run, epochs=3, learning_rate=1e30)
    with pytest.raises(TrainingStoppedError, match=r"epoch .*try a lower learning"):
        train_classifier(config, tmp_path / "r")
    for epoch in range(1, 1 + len(list((tmp_path / "r" / "checkpoints").glob("epoch_*")))):
        weights = load_weights(checkpoint_path(tmp_path / "r" / "checkpoints", epoch))
        assert all(torch.isfinite(w).all() for w in weights.values())


def test_cqi_is_undefined_at_the_first_epoch():
    assert current_cqi([2.0], PhaseConfig()) is None
    assert current_cqi([2.0, 1.5, 1.4], PhaseConfig(smoothing="none")) == pytest.approx(0.3)


def test_every_nth_step_is_counted_through_the_epochs_and_goes_on_after_a_stop(own_run, tmp_path):
    auxiliary = with_oracle(own_run, oracle_every=3)
    run = train_classifier(short(own_run, auxiliary=auxiliary), tmp_path / "whole")
    # 1257 images in batches of 128: steps 0, 3, 6, 9 of epoch 1 (the last of 105), 12, 15, 18 of epoch 2.
    shares = [row["auxiliary_share"] for row in run.curve]
    assert shares == pytest.approx([(3 * 128 + 105) / 1257, 3 * 128 / 1257])
    assert all(0 < row["auxiliary_loss"] < 5 for row in run.curve)
    shutil.copytree(run.path, tmp_path / "stopped")
    (tmp_path / "stopped" / "DONE.json").unlink()
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "epoch_0002")
    again = train_classifier(run.config, tmp_path / "stopped")
    assert equal(last_weights(again), last_weights(run))


def test_an_epoch_whose_oracle_saw_nothing_has_no_auxiliary_loss(finished_run, tmp_path):
    auxiliary = with_oracle(finished_run, oracle_every=15)
    run = train_classifier(short(finished_run, epochs=3, auxiliary=auxiliary), tmp_path / "r")
    # Ten steps an epoch: the oracle is asked at steps 0, 15 and not in 20 … 29.
    assert [row["auxiliary_loss"] is None for row in run.curve] == [False, False, True]
    assert run.losses == [row["task_loss"] for row in run.curve]


def test_a_narrow_oracle_supervises_by_its_width(own_run, tmp_path):
    auxiliary = with_oracle(own_run, oracle_width=0.5)
    with pytest.raises(FileNotFoundError, match=r"--set width=0.5"):
        train_classifier(short(own_run, epochs=1, auxiliary=auxiliary), tmp_path / "r")
    train_fmce_net(own_run, config=FMCENetConfig(epochs=1, width=0.5))
    run = train_classifier(short(own_run, epochs=1, auxiliary=auxiliary), tmp_path / "r")
    narrow, published = (file_digest(own_run.fmce_net_file("map", w)) for w in (0.5, 1.0))
    assert run.config.auxiliary.oracle_digest == narrow != published
    random = with_oracle(own_run, oracle_width=0.5, oracle_weights="random")
    assert load_oracle(random, own_run, seed=1).width == 0.5


def test_a_last_batch_of_one_image_under_a_norm_of_one_value_is_refused_before_training(
    finished_run, tmp_path, monkeypatch
):
    (tmp_path / "pooled.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    pooled = [nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)]\n"
        "    return nn.Sequential(*pooled, nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = short(finished_run, batch_size=len(finished_run.setup.data.train) - 1)
    config = replace(config, model=ModelConfig(name="pooled:net", layer="0"))
    with pytest.raises(ValueError, match=r"'2' normalises over the batch .*set train.batch_size"):
        train_classifier(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "changes", [{"label_smoothing": 0.1}, {"weight_average": 0.9}, {"auxiliary": True}]
)
def test_a_control_that_was_stopped_ends_as_if_it_was_not(finished_run, tmp_path, changes):
    auxiliary = AuxiliaryConfig("ridge_probe", raf=0.9) if "auxiliary" in changes else None
    section = {} if auxiliary else changes
    config = short(finished_run, epochs=3, auxiliary=auxiliary, **section)
    done = train_classifier(config, tmp_path / "run").done
    before = end_of(tmp_path / "run")
    (tmp_path / "run" / "DONE.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "epoch_0003")
    assert train_classifier(config, tmp_path / "run").done == done
    after = end_of(tmp_path / "run")
    assert after[0] == before[0]
    assert equal(after[1], before[1])


def end_of(folder):
    run = open_run(folder)
    return [r | {"time_seconds": 0} for r in run.curve], last_weights(run)


def test_the_average_of_the_weights_is_what_is_kept_and_evaluated(finished_run, tmp_path):
    run = train_classifier(short(finished_run, weight_average=0.9), tmp_path / "average")
    plain = train_classifier(short(finished_run), tmp_path / "plain")
    assert [r["loss"] for r in run.curve] == [r["loss"] for r in plain.curve]
    assert not equal(last_weights(run), last_weights(plain))
    validation = run.training.batches(run.training.data.validation, make_runtime("cpu"))
    scores = evaluate_classifier(run.model(2), validation, make_runtime("cpu"))
    assert scores.loss == pytest.approx(run.curve[-1]["validation_loss"])
    assert scores.loss != pytest.approx(plain.curve[-1]["validation_loss"])


def test_smoothed_targets_leave_the_curve_cross_entropys(finished_run, tmp_path):
    run = train_classifier(short(finished_run, label_smoothing=0.3), tmp_path / "smooth")
    assert all(row["task_loss"] != row["loss"] for row in run.curve)
    assert run.losses == [row["task_loss"] for row in run.curve]
    # Of any prediction, smoothed cross-entropy is at least the entropy of the smoothed target.
    assert all(row["loss"] > 0.3 * math.log(10) - 0.3 for row in run.curve)


def test_the_ridge_probe_pulls_maps_without_any_oracle(finished_run, tmp_path):
    config = short(finished_run, auxiliary=AuxiliaryConfig("ridge_probe", raf=0.5))
    run = train_classifier(config, tmp_path / "probe")
    errors = [row["auxiliary_loss"] for row in run.curve]
    assert 0 < errors[-1] < errors[0] < 1.5
    assert run.config.auxiliary.oracle_digest is None
