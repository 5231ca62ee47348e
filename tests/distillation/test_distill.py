"""`fmce distill` on scenes and digits at toy size: arms, teacher checks, resume, export, report."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fmce.cli.main import main
from fmce.config.distillation import DistillationConfig, distillation_preset
from fmce.config.io import from_yaml, with_settings
from fmce.data.road_scenes.canvas import SCENE_CLASSES
from fmce.digests import read_record
from fmce.distillation.data.dataset import read_distillation_data
from fmce.distillation.distill import distill
from fmce.distillation.experiment import Experiment, open_experiment
from fmce.distillation.export import export
from fmce.distillation.results import gap_closed
from fmce.distillation.teacher import make_teacher
from fmce.engine.distributed.ranks import Ranks
from fmce.engine.runtime import make_runtime
from fmce.report.distillation_page import verdict
from fmce.report.picture_figures import predictions_figure
from fmce.report.write import report
from fmce.runs.checkpoint import load_checkpoint

timm = pytest.importorskip("timm")


def test_every_arm_and_seed_has_one_row_and_equal_steps(experiment):
    result = read_record(experiment / "distill.json")
    wanted = [(a, s) for s in (1, 2) for a in ("supervised", "distilled", "function_matching")]
    assert [(r["arm"], r["seed"]) for r in result["rows"]] == wanted
    assert all([p["steps"] for p in r["curve"]] == [2, 4] for r in result["rows"])
    last = [(r["curve"][-1], r["agreement"]) for r in result["rows"]]
    for point, alike in last:  # the curve ends at what the last checkpoint is evaluated to
        assert point["agreement"] == alike["validation"]["argmax_agreement"]
        assert point["agreement_held_out"] == alike["held_out"]["argmax_agreement"]
    assert result["images"] == {"labelled": 8, "unlabelled": 8, "held_out": 4, "validation": 4}
    assert all(0 <= r["agreement"]["held_out"]["argmax_agreement"] <= 1 for r in result["rows"])


def test_a_second_call_trains_nothing(experiment, small_distillation):
    done = experiment / "runs" / "function_matching-seed1" / "DONE.json"
    before = done.stat().st_mtime_ns
    distill(with_settings(DistillationConfig(), small_distillation), experiment)
    assert done.stat().st_mtime_ns == before


def test_an_arm_lost_in_the_middle_comes_out_the_same(experiment, small_distillation, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    run = copy / "runs" / "function_matching-seed2"
    last = load_checkpoint(run / "checkpoints" / "epoch_0002").weights
    shutil.rmtree(run)
    distill(with_settings(DistillationConfig(), small_distillation), copy)
    again = load_checkpoint(run / "checkpoints" / "epoch_0002").weights
    assert all(torch.equal(last[k], again[k]) for k in last)


def test_arms_of_a_seed_start_from_the_same_weights(experiment):
    opened = open_experiment(experiment)
    supervised, matched = (
        opened.make_student(arm, 1, pretrained=False) for arm in ("supervised", "distilled")
    )
    assert opened.make_student("supervised", 1, pretrained=False).auxiliary is not None
    theirs = supervised.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in matched.state_dict().items())


def test_the_demo_goes_from_the_teacher_to_the_report(
    small_distillation, tmp_path, monkeypatch, capsys
):
    config = with_settings(distillation_preset("scenes"), [*small_distillation, "seeds=[1]"])
    monkeypatch.setattr("fmce.demo.distillation_preset", {"scenes": config}.__getitem__)
    monkeypatch.setattr("fmce.demo.find_spec", lambda _: None)  # export has its own test
    out = tmp_path / "demo"
    main(["demo", "--task", "segment", "--out", str(out), "--device", "cpu"])
    assert f"report              {out / 'report.html'}" in capsys.readouterr().out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 3


def test_teacher_below_the_floor_is_refused_before_any_student(small_distillation, tmp_path):
    config = with_settings(DistillationConfig(), [*small_distillation, "teacher_floor=0.99"])
    with pytest.raises(ValueError, match=r"below the floor 0.99"):
        distill(config, tmp_path / "x")
    assert not (tmp_path / "x" / "runs").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.name=camvid", "data.root=NOWHERE"], "expected below .* the folders train"),
        (["data.folders=[NOWHERE]"], "scenes has unlabelled images of its own"),
        (["student.name=pspnet:resnet1"], "name of a timm model, got 'resnet1'"),
        (
            ["student={name: 'pspnet:test_resnet', options: {width: 3}}"],
            "does not take its options",
        ),
    ],
)
def test_a_wrong_path_or_network_is_told_first_and_claims_no_folder(
    small_distillation, tmp_path, settings, message
):
    settings = [text.replace("NOWHERE", str(tmp_path / "no")) for text in settings]
    kept = [s for s in small_distillation if not s.startswith("student.options")]
    with pytest.raises(ValueError, match=message):
        distill(with_settings(DistillationConfig(), [*kept, *settings]), tmp_path / "x")
    assert not (tmp_path / "x" / "config.yaml").exists()
    assert not (tmp_path / "x" / "teacher").exists()


@pytest.fixture
def asked_of_timm(monkeypatch):
    """For each network that timm builds, whether its weights were asked for."""
    asked = []
    build = timm.create_model

    def watched(*args, pretrained, **options):
        asked.append(pretrained)
        return build(*args, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", watched)
    return asked


def test_a_finished_experiment_needs_no_weights_from_elsewhere(experiment, asked_of_timm):
    config = from_yaml(DistillationConfig, experiment / "config.yaml")
    config = with_settings(config, ["teacher.weights=imagenet", "student.weights=imagenet"])
    opened = Experiment(config, experiment, read_distillation_data(experiment))
    opened.load_teacher()
    opened.load_student("function_matching", 1)
    assert asked_of_timm == [False, False]


def test_a_given_teacher_needs_no_weights_from_elsewhere(
    experiment, small_distillation, tmp_path, asked_of_timm
):
    data = read_distillation_data(experiment)
    given = tmp_path / "given"
    shutil.copytree(experiment / "teacher", given)
    settings = [*small_distillation, f"teacher_checkpoint={given}", "teacher.weights=imagenet"]
    config = with_settings(DistillationConfig(), settings)
    scores = make_teacher(Experiment(config, tmp_path, data), make_runtime("cpu"))
    assert scores == read_record(experiment / "distill.json")["teacher"]
    assert asked_of_timm == [False]


def load_from(experiment, small_distillation, out, **card):
    checkpoint = out / "given"
    shutil.copytree(experiment / "teacher", checkpoint)
    path = checkpoint / "teacher.json"
    path.write_text(json.dumps(read_record(path) | card))
    settings = [
        *small_distillation,
        f"teacher_checkpoint={checkpoint}",
        "arms=[distilled]",
        "seeds=[1]",
    ]
    return distill(with_settings(DistillationConfig(), settings), out / "new")


def test_given_teacher_is_loaded_and_scored_alike(experiment, small_distillation, tmp_path):
    result = load_from(experiment, small_distillation, tmp_path)
    before = read_record(experiment / "distill.json")
    assert result["teacher"] == before["teacher"]


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"class_names": ["sky", "road"]}, "class_names"),
        ({"mean": [0.1, 0.1, 0.1]}, "same view"),
        ({"task": "classify"}, "task"),
        (
            {"mean": ["0.485", "0.456", "0.406"]},
            r"teacher\.json: expected mean as a list of three n",
        ),
        ({"std": None}, r"teacher\.json: expected std as a list of three numbers"),
    ],
)
def test_teacher_of_other_classes_or_normalisation_is_refused(
    experiment, small_distillation, tmp_path, card, message
):
    with pytest.raises(ValueError, match=message):
        load_from(experiment, small_distillation, tmp_path, **card)


def without_digest(card):
    """Leave a card as someone else would write it."""
    fields = read_record(card)
    del fields["sha256"]
    card.write_text(json.dumps(fields))


def test_a_teacher_of_a_wrapper_in_a_file_of_torch_save_is_loaded(
    experiment, small_distillation, tmp_path
):
    given = tmp_path / "given"
    shutil.copytree(experiment / "teacher", given)
    without_digest(given / "teacher.json")
    weights = load_file(given / "model.safetensors")
    (given / "model.safetensors").unlink()
    torch.save({"state_dict": {f"module.{k}": v for k, v in weights.items()}}, given / "model.pth")
    settings = [*small_distillation, f"teacher_checkpoint={given}"]
    config = with_settings(DistillationConfig(), settings)
    data = read_distillation_data(experiment)
    scores = make_teacher(Experiment(config, tmp_path, data), make_runtime("cpu"))
    assert scores == json.loads((experiment / "distill.json").read_text())["teacher"]


def test_a_teacher_that_answers_with_nan_is_refused_before_step_1(
    experiment, small_distillation, tmp_path
):
    given = tmp_path / "given"
    shutil.copytree(experiment / "teacher", given)
    without_digest(given / "teacher.json")
    weights = load_file(given / "model.safetensors")
    name = next(k for k, v in weights.items() if v.ndim == 4 and "auxiliary" not in k)
    settings = [*small_distillation, f"teacher_checkpoint={given}"]
    config = with_settings(DistillationConfig(), settings)
    wrong = Experiment(config, tmp_path, read_distillation_data(experiment))
    # NaN itself, and a sound number that overflows.
    for value, message in (
        (float("nan"), "holds NaN or infinite values in 1"),
        (3e38, "before step 1"),
    ):
        save_file(
            weights | {name: torch.full_like(weights[name], value)}, given / "model.safetensors"
        )
        with pytest.raises(ValueError, match=message):
            make_teacher(wrong, make_runtime("cpu"))


def test_teacher_of_another_network_is_refused(experiment, small_distillation, tmp_path):
    settings = [
        *small_distillation,
        f"teacher_checkpoint={experiment / 'teacher'}",
        "teacher.options={output_stride: 16, encoder_options: {channels: [8, 8, 8, 8]}}",
    ]
    with pytest.raises(ValueError, match="does not fit the teacher"):
        distill(with_settings(DistillationConfig(), settings), tmp_path / "new")


def test_a_teacher_without_auxiliary_head_loads_and_normalisation_can_be_set(
    experiment, small_distillation, tmp_path
):
    weights = load_file(experiment / "teacher" / "model.safetensors")
    card = read_record(experiment / "teacher" / "teacher.json")
    given = tmp_path / "given"
    given.mkdir()
    bare = {k: v for k, v in weights.items() if not k.startswith("auxiliary.")}
    assert len(bare) < len(weights)
    save_file(bare, given / "model.safetensors")
    other = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    del card["sha256"]
    (given / "teacher.json").write_text(json.dumps(card | other))
    settings = [
        *small_distillation,
        f"teacher_checkpoint={given}",
        "teacher.options={auxiliary: false}",
        *(f"data.{name}={value}" for name, value in other.items()),
        "arms=[distilled]",
        "seeds=[1]",
    ]
    out = tmp_path / "new"
    distill(with_settings(DistillationConfig(), settings), out)
    assert list(read_distillation_data(out).mean) == other["mean"]


def test_several_trainings_at_a_time_are_refused_in_several_processes(small_distillation, tmp_path):
    config = with_settings(DistillationConfig(), small_distillation)
    one_of_two = replace(make_runtime("cpu"), ranks=Ranks(0, 2))
    with pytest.raises(
        ValueError, match=r"jobs=3 .* the 2 that torchrun started .* leave --jobs out"
    ):
        distill(config, tmp_path / "x", jobs=3, runtime=one_of_two)
    assert not (tmp_path / "x").exists()


def test_a_refused_teacher_or_a_start_that_broke_does_not_block_the_corrected_command(
    experiment, small_distillation, tmp_path
):
    given = [*small_distillation, f"teacher_checkpoint={experiment / 'teacher'}"]
    few = ["seeds=[1]", "arms=[supervised]"]
    refused = {
        "both must see the same view": ["data.mean=[0, 0, 0]", "data.std=[1, 1, 1]"],
        "give a better one, or lower teacher_floor": ["teacher_floor=0.99"],
        "does not fit the teacher": ["teacher.options={encoder_options: {stem_width: 8}}"],
    }
    for message, settings in refused.items():
        with pytest.raises(ValueError, match=message):
            distill(with_settings(DistillationConfig(), [*given, *settings, *few]), tmp_path)
    broken = [
        *small_distillation,
        "teacher.name=tests.distillation.test_distill:breaks_in_training",
    ]
    with pytest.raises(RuntimeError, match="broken"):
        distill(
            with_settings(DistillationConfig(), [*broken, "teacher.options={}", *few]), tmp_path
        )
    result = distill(with_settings(DistillationConfig(), [*given, *few]), tmp_path)
    assert [arm["arm"] for arm in result["arms"]] == ["supervised"]


class BreaksInTraining(torch.nn.Conv2d):
    def forward(self, images):
        raise RuntimeError("broken")


def breaks_in_training(num_classes):
    return BreaksInTraining(3, num_classes, 1)


def test_function_matching_without_unlabelled_images_is_refused(tmp_path):
    settings = ["data.labelled=null", "data.unlabelled=null", "data.held_out=0"]
    config = with_settings(distillation_preset("digits"), settings)
    with pytest.raises(ValueError, match="needs unlabelled images"):
        distill(config, tmp_path / "x")


def test_held_out_images_that_leave_none_are_told_and_claim_no_folder(tmp_path):
    images = (
        "data={labelled: 60, unlabelled: null, held_out: 5000, validation: 40, height: 8, width: 8}"
    )
    out = tmp_path / "x"
    with pytest.raises(ValueError, match=r"data\.held_out=5000 took all \d+ that there are"):
        distill(with_settings(distillation_preset("digits"), [images]), out)
    assert {path.name for path in out.iterdir()} == {".lock", "versions.json"}


def test_classification_runs_the_same_path(tmp_path):
    settings = [
        "data={labelled: 60, unlabelled: 100, held_out: 10, validation: 40, height: 8, width: 8}",
        "teacher.options={width: 8}",
        "student.options={width: 4}",
        "teacher_steps={steps: 4, batch_size: 16, interval: 4}",
        "student_steps={steps: 4, batch_size: 16, interval: 4, mixup: true}",
        "seeds=[1]",
    ]
    result = distill(with_settings(distillation_preset("digits"), settings), tmp_path / "x")
    assert result["score_name"] == "accuracy"
    assert {row["arm"] for row in result["rows"]} == {
        "supervised",
        "distilled",
        "function_matching",
    }


def test_gap_closed_is_the_share_of_the_means_gap():
    rows = [
        {"arm": a, "score": s, "agreement": {}}
        for a, s in [("supervised", 0.6), ("supervised", 0.62), ("function_matching", 0.64)]
    ]
    assert gap_closed(rows, 0.65) == pytest.approx(0.03 / 0.04)
    assert gap_closed(rows, 0.5) is None
    assert gap_closed(rows[:2], 0.65) is None


@pytest.mark.filterwarnings("ignore")  # the exporters warn about their own dependencies
def test_export_matches_the_trained_student(experiment, tmp_path):
    pytest.importorskip("onnxruntime")
    result = export(experiment, tmp_path / "student", arm="supervised", seed=2)
    assert max(result["relative_differences"].values()) < 1e-3
    assert result["student"]["parameters"] < result["teacher"]["parameters"]
    assert {p.name for p in (tmp_path / "student").iterdir()} >= {
        "student.safetensors",
        "student.pt2",
        "student.onnx",
        "export.json",
    }


def test_report_is_one_file_with_a_verdict(experiment):
    page = report(experiment).read_text()
    assert "Function matching" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "The teacher reaches" in page
    assert page.count("data:image/png;base64,") == 3
    assert "Size and speed" in page


def test_the_report_tells_of_damaged_images(experiment, small_distillation, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    assert "Damaged" not in report(copy).read_text()
    about = read_record(copy / "data.json")
    found = {"labelled": {"count": 2, "first": "a.png, b.png"}}
    (copy / "data.json").write_text(json.dumps(about | {"damaged": found}))
    result = distill(with_settings(DistillationConfig(), small_distillation), copy)
    assert result["damaged"] == found
    assert "2 of 8 labelled images (a.png, b.png)" in report(copy).read_text()


@pytest.mark.parametrize(
    ("arms", "drawn", "caption"),
    [
        (
            ("function_matching", "distilled", "supervised"),
            "function_matching",
            "the matched student and the teacher",
        ),
        (("supervised", "distilled"), "distilled", "the student of arm distilled and the teacher"),
    ],
)
def test_the_picture_of_disagreement_is_of_the_arm_that_the_caption_names(
    experiment, tmp_path, monkeypatch, arms, drawn, caption
):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    result = read_record(copy / "distill.json")
    result["arms"] = [next(a for a in result["arms"] if a["arm"] == arm) for arm in arms]
    result["rows"] = [row for arm in arms for row in result["rows"] if row["arm"] == arm]
    del result["predictions_sha256"]
    (copy / "distill.json").write_text(json.dumps(result))
    with np.load(copy / "predictions.npz") as arrays:
        told = {name: arrays[name] for name in ("images", "truth", "teacher", *arms)}
    for number, arm in enumerate(arms, 1):  # arm number n differs in n pixels of each image
        told[arm] = told["teacher"].copy()
        told[arm][:, 0, :number] = (told[arm][:, 0, :number] + 1) % 5
    np.savez_compressed(copy / "predictions.npz", **told)
    seen = {}

    def watched(images, columns, num_classes):
        seen.update(columns)
        return predictions_figure(images, columns, num_classes)

    monkeypatch.setattr("fmce.report.distillation_page.predictions_figure", watched)
    page = report(copy).read_text()
    assert f"black is where {caption} disagree" in page
    wanted = 1 + arms.index(drawn)
    assert (seen["disagreement"].sum(axis=(1, 2)) == wanted).all()


@pytest.mark.parametrize(
    ("teacher", "matched", "expected"),
    [
        (0.5, 0.45, "closes 50 % of the gap"),
        (0.5, 0.35, "below the supervised student, further from the teacher by 50 %"),
        (0.4, 0.45, "no better than the supervised student"),
    ],
)
def test_the_verdict_says_which_way_the_gap_went(teacher, matched, expected):
    rows = [
        {"arm": a, "score": s, "agreement": {"validation": {"argmax_agreement": s}}}
        for a, s in (("supervised", 0.4), ("function_matching", matched))
    ]
    arms = [
        {"arm": r["arm"], "mean": r["score"], "agreement": {"validation": r["score"]}} for r in rows
    ]
    result = {
        "task": "segment",
        "score_name": "miou",
        "teacher": {"miou": teacher},
        "arms": arms,
        "comparisons": [],
        "gap_closed": gap_closed(rows, teacher),
    }
    assert expected in verdict(result)
    assert f"{100 * matched:.1f} % on validation (supervised 40.0 %)" in verdict(result)


OWN_NETS = """
from torch import nn

def compact(num_classes, width=16):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, num_classes, 1)
    )
"""


def test_a_student_of_ones_own_goes_from_the_command_to_its_report(
    experiment, small_distillation, tmp_path, monkeypatch
):
    (tmp_path / "own_nets.py").write_text(OWN_NETS)
    (tmp_path / "stems.txt").write_text("none\n")
    monkeypatch.syspath_prepend(tmp_path)
    kept = [s for s in small_distillation if not s.startswith(("student.options", "seeds"))]
    settings = [*kept, "data={name: scenes}", "student.options={width: 6}", "seeds=[1]"]
    out = tmp_path / "own"
    main(
        [
            *("distill", "--out", str(out), "--student", "own_nets:compact", "--jobs", "1"),
            *("--teacher-checkpoint", str(experiment / "teacher"), "--device", "cpu"),
            *("--exclude", str(tmp_path / "stems.txt")),
            *(word for setting in settings for word in ("--set", setting)),
        ]
    )
    result = read_record(out / "distill.json")
    assert [row["arm"] for row in result["rows"]] == [
        "supervised",
        "distilled",
        "function_matching",
    ]
    assert all([p["steps"] for p in row["curve"]] == [2, 4] for row in result["rows"])
    # 3·6·9 + 6 of the first convolution, 6·C + C of the second.
    classes = len(SCENE_CLASSES)
    assert result["networks"]["student"]["parameters"] == 168 + 7 * classes
    assert "own_nets:compact" in (out / "report.html").read_text()
    opened = open_experiment(out, trust=["own_nets:compact"])
    assert opened.config.data.exclude == str(
        tmp_path / "stems.txt"
    )  # no section set as a whole drops it
    assert opened.load_student("function_matching", 1)[0].out_channels == 6


def test_students_and_teacher_load_back_in_eval_mode(experiment):
    opened = open_experiment(experiment)
    assert not opened.load_student("distilled", 1).training
    assert not opened.load_teacher().training
