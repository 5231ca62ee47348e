"""`fmce distill` for detection on scenes at toy size: arms, scores, resume, report."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.cli.show_distillation import show_predictions
from fmce.config.distillation import distillation_preset
from fmce.config.io import with_settings
from fmce.data.augmentation import Augmentation
from fmce.data.detection.boxes import is_packed, unpack_boxes
from fmce.data.detection.scalabel import BDD100K_BOX_CLASSES
from fmce.data.road_scenes.scenes import render_scene
from fmce.demo import distillation_demo
from fmce.digests import read_record
from fmce.distillation.data.dataset import read_distillation_data
from fmce.distillation.distill import distill
from fmce.distillation.experiment import open_experiment
from fmce.distillation.export import export
from fmce.distillation.predict import predict
from fmce.distillation.predict_boxes import predict_boxes, read_truth, score_boxes
from fmce.engine.runtime import make_runtime
from fmce.models.detection import DetectionOutput
from fmce.runs.checkpoint import load_checkpoint
from fmce.tasks.detection import DetectionTask
from tests.inputs import INPUTS

pytest.importorskip("timm")
pytest.importorskip("faster_coco_eval")

SETTINGS = (
    "data={height: 24, width: 40, labelled: 8, unlabelled: 8, held_out: 4, validation: 6}",
    "teacher_steps={steps: 6, batch_size: 4, interval: 3}",
    "student_steps={steps: 4, batch_size: 4, interval: 2}",
    "teacher.options={channels: 32, convolutions: 1, strides: [4, 8]}",
    "student.options={channels: 32, convolutions: 1, strides: [4, 8]}",
    "seeds=[1]",
)


@pytest.fixture(scope="module")
def config():
    return with_settings(distillation_preset("scenes-detect"), SETTINGS)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, config):
    """What `fmce demo --task detect` leaves, from networks and pools of toy size."""
    out = tmp_path_factory.mktemp("detect") / "scenes"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fmce.demo.distillation_preset", {"scenes-detect": config}.__getitem__)
        patch.setattr("fmce.demo.find_spec", lambda _: None)  # export has its own test
        found = distillation_demo("detect", out, runtime=make_runtime("cpu"))
        assert found.report == out / "report.html"
    return out


def test_every_arm_has_ap_and_agreement(experiment):
    result = read_record(experiment / "distill.json")
    assert result["score_name"] == "ap"
    assert [row["arm"] for row in result["rows"]] == [
        "supervised",
        "distilled",
        "function_matching",
    ]
    for row in result["rows"]:
        assert 0 <= row["score"] <= 1
        assert row["scores"]["images"] == 6
        assert row["agreement"]["held_out"]["mean_kl"] > 0
        assert [point["steps"] for point in row["curve"]] == [2, 4]
    metrics = (
        (experiment / "runs" / "function_matching-seed1" / "metrics.jsonl").read_text().splitlines()
    )
    parts = json.loads(metrics[-1])
    total = sum(parts[f"loss_{name}"] for name in ("classes", "boxes", "centerness"))
    assert total == pytest.approx(parts["loss"], rel=1e-5)


def test_boxes_of_the_pool_are_those_of_the_scenes(experiment):
    data = read_distillation_data(experiment)
    assert is_packed(data.labelled.targets)
    scene = render_scene(3, height=24, width=40)
    packed = unpack_boxes(data.labelled.targets)[3]
    np.testing.assert_array_equal(packed["boxes"], scene.boxes)
    np.testing.assert_array_equal(packed["labels"], scene.box_labels)
    np.testing.assert_array_equal(packed["ignored"], scene.box_pixels < 16)


def test_an_arm_lost_in_the_middle_comes_out_the_same(experiment, config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    run = copy / "runs" / "function_matching-seed1"
    last = load_checkpoint(run / "checkpoints" / "epoch_0002").weights
    shutil.rmtree(run)
    distill(config, copy, jobs=1)
    again = load_checkpoint(run / "checkpoints" / "epoch_0002").weights
    assert all(torch.equal(last[k], again[k]) for k in last)


def test_the_demos_report_shows_boxes_and_the_classes(experiment):
    page = (experiment / "report.html").read_text()
    assert "(score from 0.3 on) as truth" in page
    assert page.count("data:image/png;base64,") == 3
    assert "pedestrian" in page
    pictures = np.load(experiment / "predictions.npz")
    assert set(pictures.files) == {
        "images",
        "truth",
        "teacher",
        "supervised",
        "distilled",
        "function_matching",
    }


@pytest.mark.filterwarnings("ignore")  # the exporter warns about its own dependencies
def test_exported_student_says_the_same_at_every_location(experiment, tmp_path):
    result = export(experiment, tmp_path / "student", onnx=False)
    assert result["relative_differences"]["torch.export"] < 1e-3
    program = torch.export.load(tmp_path / "student" / "student.pt2").module()
    images = torch.randn(3, 3, 24, 40)
    with torch.no_grad():
        raw = open_experiment(experiment).load_student("function_matching", 1)(images)
        got = program(images)
    assert got.shape == (3, 60 + 15, 3 + 1 + 4)
    torch.testing.assert_close(got[..., :3], raw.class_logits)
    torch.testing.assert_close(got[..., 4:] * raw.strides[:, None], raw.distances)


def test_official_boxes_of_a_folder_are_scored_like_the_validation(experiment, tmp_path):
    # Images of the training size are not rescaled, so the scores are those of validation.
    data = read_distillation_data(experiment)
    frames = []
    for i, boxes in enumerate(unpack_boxes(data.validation.targets)):
        pixels = data.validation.images[i].permute(1, 2, 0).numpy()
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
        rows = [
            {
                "category": data.class_names[k],
                "attributes": {"crowd": bool(c)},
                "box2d": dict(
                    zip(("x1", "y1", "x2", "y2"), [*b[:2], b[2] - 1, b[3] - 1], strict=True)
                ),
            }
            for b, k, c in zip(
                *(boxes[n].tolist() for n in ("boxes", "labels", "ignored")), strict=True
            )
        ]
        frames.append({"name": f"{i}.png", "labels": rows})
    (tmp_path / "truth.json").write_text(json.dumps(frames))
    got = predict(
        experiment,
        tmp_path / "images",
        tmp_path / "out",
        network="teacher",
        labels=tmp_path / "truth.json",
    )
    teacher = read_record(experiment / "distill.json")["teacher"]
    by_class = [scores.pop("ap_by_class") for scores in (got["scores"], teacher)]
    assert by_class[0] == pytest.approx(by_class[1], abs=1e-3)
    assert got["scores"] == pytest.approx(teacher, abs=1e-3)
    official = json.loads((tmp_path / "out" / "predictions_official.json").read_text())
    assert [frame["name"] for frame in official] == [f"{i}.png" for i in range(6)]


def scalabel(path, *names, category="car"):
    box = {"x1": 1, "y1": 1, "x2": 9, "y2": 9}
    frames = [{"name": name, "labels": [{"category": category, "box2d": box}]} for name in names]
    path.write_text(json.dumps(frames))
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images and a damaged one."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(2):
        scene = render_scene(number, height=24, width=40)
        Image.fromarray(scene.image).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_labels_that_do_not_fit_are_refused_before_anything_is_predicted(
    experiment, pictures, tmp_path
):
    wrong = (
        (pictures, "pictures.*: expected JSON, got: Is a directory"),
        (tmp_path / "none.json", "none.json: expected (labels|JSON), got: No such file"),
        (scalabel(tmp_path / "ufo.json", "0.png", category="ufo"), "unknown class, 0: 'ufo'"),
        (scalabel(tmp_path / "others.json", "x.png"), "it names x, the images are 0, 1, broken"),
    )
    for labels, message in wrong:
        with pytest.raises(ValueError, match=message):
            predict(experiment, pictures, tmp_path / "out", labels=labels)
    assert not (tmp_path / "out").exists()


def test_names_and_sizes_are_checked_before_anything_is_predicted(experiment, pictures, tmp_path):
    nested = INPUTS / "labels" / "12-nested"
    with pytest.raises(
        ValueError, match=r"one image per name, got .*drive1/0000\.jpg and .*drive2"
    ):
        predict(experiment, nested, tmp_path / "out")
    frames = json.loads(scalabel(tmp_path / "x.json", "0.png").read_text())
    frames[0]["size"] = {"width": 80, "height": 48}
    (tmp_path / "size.json").write_text(json.dumps(frames))
    frames[0] |= {"size": None}
    frames[0]["labels"][0]["box2d"] |= {"x2": 90}
    (tmp_path / "outside.json").write_text(json.dumps(frames))
    for name, message in (
        ("size", "is 40×24, its labels are for 80×48"),
        ("outside", "outside the"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(experiment, pictures, tmp_path / "out", labels=tmp_path / f"{name}.json")
    assert not (tmp_path / "out").exists()


# What BDD100K's own evaluation (scalabel 0.3.1) gives for these files, in percent.
OFFICIAL = (
    (26.06913173, [32.5715, 26.5149, 26.0840, 18.5331, 26.6422]),
    (17.45313927, [20.9499, 18.8318, 2.3944, 24.3397, 20.7499]),
    (22.58886848, [21.1826, 19.3805, 15.6452, 25.0062, 31.7298]),  # with boxes to be ignored
    (16.59331419, [7.8991, 16.3399, 15.8363, 18.4881, 24.4031]),
)


@pytest.mark.parametrize("number", range(4))
def test_ap_is_the_official_evaluations_with_crowds_and_ignored_boxes(tmp_path, number):
    folder = INPUTS / "labels" / "07-scalabel"
    frames = json.loads((folder / f"pred{number}.json").read_text())
    names = [frame["name"] for frame in frames]
    for name in names:  # of the size that the boxes were drawn for
        Image.new("L", (1280, 720)).save(tmp_path / name)
    found = []
    for frame in frames:
        rows = frame["labels"]
        corners = [[row["box2d"][side] for side in ("x1", "y1", "x2", "y2")] for row in rows]
        found.append(
            {
                "boxes": torch.tensor(corners).reshape(-1, 4) + torch.tensor([0, 0, 1, 1]),
                "labels": torch.tensor(
                    [BDD100K_BOX_CLASSES.index(row["category"]) for row in rows]
                ),
                "scores": torch.tensor([row["score"] for row in rows]),
            }
        )
    paths = [tmp_path / name for name in names]
    truth = read_truth(folder / f"truth{number}.json", paths, BDD100K_BOX_CLASSES)
    scores = score_boxes(names, found, truth, BDD100K_BOX_CLASSES)
    ap, by_class = OFFICIAL[number]
    assert 100 * scores["ap"] == pytest.approx(ap, abs=1e-6)
    found_by_class = [100 * v for v in scores["ap_by_class"].values() if v is not None]
    assert found_by_class == pytest.approx(by_class, abs=1e-4)


def test_images_without_labels_and_labels_without_images_are_counted_and_told(
    experiment, pictures, tmp_path, capsys, caplog
):
    labels = scalabel(tmp_path / "some.json", "0.png", "7.png", "8.png")
    result = predict(experiment, pictures, tmp_path / "out", labels=labels)
    assert (result["images"], len(result["unreadable"])) == (2, 1)
    assert (result["images_without_labels"], result["labels_without_image"]) == (2, 2)
    assert result["scores"]["boxes"] == 1
    show_predictions(tmp_path / "out", result)
    said = capsys.readouterr().out
    assert "2 images have no labels and count as images without objects" in said
    assert "2 labelled images are not in the folder" in said
    assert "1 unreadable images are left out" in said
    assert "cannot read" in caplog.text
    assert "broken.png" in caplog.text
    assert "it is left out" in caplog.text
    assert "stands in" not in caplog.text


def test_a_student_of_other_levels_is_refused_before_anything_is_written(config, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"over levels of \(15, 6\) .* over \(60, 15\); give both"):
        distill(with_settings(config, ["student.options.strides=[8, 16]"]), out)
    assert not out.exists()


def test_an_undefined_score_of_the_teacher_is_told(experiment, config, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(experiment, copy)
    card = copy / "teacher" / "teacher.json"
    about = read_record(card)
    about["scores"]["ap"] = None
    card.write_text(json.dumps(about))
    with pytest.raises(
        ValueError, match="teacher's ap is undefined: none of the 6 validation images holds a box"
    ):
        distill(config, copy)


def test_validation_images_whose_boxes_are_cut_away_claim_no_folder(config, tmp_path):
    save_yolo(tmp_path, "train", range(4))
    save_yolo(tmp_path, "val", range(4, 6))
    for path in (tmp_path / "labels" / "val").iterdir():
        path.write_text("0 0.05 0.5 0.1 0.5\n")  # of 24×40; brought to 24×24, the middle is left
    files = [f"data={{name: yolo, root: {tmp_path}, width: 24, class_names: [a, b, c]}}"]
    files += ["data.labelled=2", "data.held_out=0", "data.validation=null"]
    with pytest.raises(ValueError, match="no box to find is left in 2 validation images"):
        distill(with_settings(config, files), tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()


class OneBox(torch.nn.Module):
    """A detector of one's own that always sees a box at 10, 5 … 20, 15 pixels."""

    def __init__(self):
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        assert images.shape[2:] == (24, 48)
        return DetectionOutput(
            torch.full((1, 1, 2), -9.0).index_fill(2, torch.tensor([1]), 9.0),
            torch.full((1, 1, 4), 5.0),
            torch.full((1, 1), 9.0),
            torch.tensor([[15.0, 10.0]]),
            torch.tensor([8.0]),
            (1,),
        )


def test_boxes_are_given_in_the_pixels_of_the_image_itself():
    # 72×144 covers 24×40 at a third of its size.
    augmentation = Augmentation((0.5,) * 3, (0.25,) * 3)
    image = np.zeros((72, 144, 3), np.uint8)
    found = predict_boxes(
        DetectionTask(2, ("a", "b")), OneBox().eval(), image, (24, 40), augmentation
    )
    assert found["boxes"].tolist() == [[30, 15, 60, 45]]
    assert found["labels"].tolist() == [1]


def save_yolo(root, split, numbers):
    for kind in ("images", "labels"):
        (root / kind / split).mkdir(parents=True)
    for number in numbers:
        scene = render_scene(number, height=24, width=40)
        Image.fromarray(scene.image).save(root / "images" / split / f"{number}.png")
        x1, y1, x2, y2 = scene.boxes.T / np.array([[40], [24], [40], [24]])
        rows = np.stack([scene.box_labels, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
        lines = "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows)
        (root / "labels" / split / f"{number}.txt").write_text(lines)


def test_unlabelled_frames_in_files_are_each_seen_once(config, tmp_path):
    save_yolo(tmp_path, "train", range(4))
    save_yolo(tmp_path, "val", range(4, 7))
    (tmp_path / "drive").mkdir()
    for number in range(7, 19):
        scene = render_scene(number, height=24, width=40)
        Image.fromarray(scene.image).save(tmp_path / "drive" / f"{number}.png")
    files = (
        f"data={{name: yolo, root: {tmp_path}, storage: files, record_frames: true}}",
        f"data.folders=[{tmp_path / 'drive'}]",
        "data.class_names=[pedestrian, car, sign]",
        *(f"data.{name}=null" for name in ("labelled", "unlabelled", "validation")),
        "data.held_out=0",
        "arms=[function_matching]",
    )
    result = distill(with_settings(config, files), tmp_path / "out", jobs=1)
    assert result["images"] == {"labelled": 4, "unlabelled": 12, "held_out": 0, "validation": 3}
    logs = sorted((tmp_path / "out" / "runs" / "function_matching-seed1" / "frames").glob("*.txt"))
    seen = [key for log in logs for key in log.read_text().splitlines()]
    assert len(seen) == len(set(seen)) == 16  # four steps of four images are one pass


def test_a_temperature_is_refused(config):
    with pytest.raises(ValueError, match="temperature"):
        with_settings(config, ["temperature=2"])
