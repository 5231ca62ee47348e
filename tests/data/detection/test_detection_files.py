"""Boxes of every format in one form, on small files and on the real samples."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fmce.data.detection.files import DetectionFiles, join_labels
from fmce.data.detection.formats import (
    coco_detection,
    kitti_detection,
    voc_detection,
)
from fmce.data.detection.labels import Classes, RawBox, RawImage
from fmce.data.detection.scalabel import (
    BDD100K_BOX_CLASSES,
    BDD100K_NAMES,
    bdd100k_detection,
    read_scalabel,
    to_scalabel,
)
from fmce.data.detection.yolo import yolo_detection
from tests.inputs import INPUTS

DATA = Path(os.environ.get("FMCE_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="FMCE_DATA names no folder of real data")


def picture(path, width=40, height=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 128, np.uint8)).save(path)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def box2d(x1, y1, x2, y2):
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2}


def label(category, *box, **more):
    return {"id": "0", "category": category, "box2d": box2d(*box), **more}


FRAMES = [
    {
        "name": "a.jpg",
        "labels": [
            label("car", 2, 3, 11, 12),
            label("person", 0, 0, 4, 9, attributes={"crowd": True}),
            label("trailer", 5, 5, 9, 9, attributes={}),
            label("motor", 1, 1, 3, 3),
            {"id": "9", "category": "lane", "poly2d": [], "box2d": None},
        ],
    },
    {"name": "b.jpg", "labels": None},
    {"name": "c.jpg"},
]


def bdd(root, source, content, names="abc"):
    for name in names:
        picture(root / "images" / "100k" / "train" / f"{name}.jpg")
    write(root / "labels" / source, content)
    return root


@pytest.mark.parametrize("source", ["det_20/det_train.json", "bdd100k_labels_images_train.json"])
def test_bdd100k_lists_of_both_releases(tmp_path, source):
    files = bdd100k_detection(bdd(tmp_path, source, FRAMES), "train")
    assert files.stems == ("a", "b", "c")
    first = files.boxes[0]
    names = [BDD100K_BOX_CLASSES[i] for i in first.labels]
    assert names == ["car", "pedestrian", "truck", "motorcycle"]
    assert first.ignored.tolist() == [False, True, True, False]
    # Inclusive 2 … 11 is ten pixels.
    assert first.boxes[0].tolist() == [2, 3, 12, 13]
    assert [len(b.labels) for b in files.boxes[1:]] == [0, 0]
    counts = files.check()
    assert counts["car"] == counts["motorcycle"] == 1
    assert counts["ignored"] == 2


def test_bdd100k_files_of_single_images_in_both_forms(tmp_path):
    root = bdd(tmp_path, "100k/train/a.json", FRAMES[0])
    old = {"name": "b", "frames": [{"timestamp": 1, "objects": [label("bike", 1, 1, 8, 8)]}]}
    write(root / "labels" / "100k" / "train" / "b.json", old)
    write(root / "labels" / "100k" / "train" / "c.json", {"name": "c.jpg", "labels": []})
    files = bdd100k_detection(root, "train", unannotated="error")
    assert [len(b.labels) for b in files.boxes] == [4, 1, 0]
    assert files.class_names[files.boxes[1].labels[0]] == "bicycle"


@pytest.mark.parametrize(("unannotated", "stems"), [("empty", ("a", "b", "c")), ("skip", ("a",))])
def test_images_without_annotation_are_taken_or_left(tmp_path, unannotated, stems):
    root = bdd(tmp_path, "det_20/det_train.json", FRAMES[:2])
    assert bdd100k_detection(root, "train", unannotated=unannotated).stems == stems


def test_images_without_annotation_can_be_refused(tmp_path):
    root = bdd(tmp_path, "det_20/det_train.json", FRAMES[:2])
    with pytest.raises(ValueError, match="2 images have no annotation, b, c"):
        bdd100k_detection(root, "train", unannotated="error")


def test_unknown_classes_and_labels_without_image_are_named(tmp_path):
    frames = [{"name": "a.jpg", "labels": [label("ufo", 1, 1, 2, 2)]}]
    root = bdd(tmp_path, "det_20/det_train.json", frames)
    with pytest.raises(ValueError, match="1 boxes have an unknown class, a: 'ufo'"):
        bdd100k_detection(root, "train")
    write(root / "labels" / "det_20" / "det_train.json", [{"name": "x.jpg", "labels": []}])
    with pytest.raises(ValueError, match="labels of x have no image"):
        bdd100k_detection(root, "train")


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((11, 3, 2, 12), "a.jpg.*inverted"),
        ((2, 3, 45, 12), "outside the image of 40×30"),
        ((-9, 3, 4, 12), "outside the image"),
        ((2, 3, float("nan"), 12), "inverted"),
    ],
)
def test_boxes_that_cannot_be_right_are_named(tmp_path, box, message):
    root = bdd(
        tmp_path, "det_20/det_train.json", [{"name": "a.jpg", "labels": [label("car", *box)]}]
    )
    with pytest.raises(ValueError, match=message):
        bdd100k_detection(root, "train").check()


def test_boxes_a_little_past_the_edge_are_cut(tmp_path):
    frames = [{"name": "a.jpg", "labels": [label("car", -1, 3, 40, 12)]}]
    files = bdd100k_detection(bdd(tmp_path, "det_20/det_train.json", frames, names="a"), "train")
    files.check()
    item = files[0]
    assert item.image.shape == (30, 40, 3)
    assert item.boxes.boxes.tolist() == [[0, 3, 40, 13]]


def test_broken_files_are_named(tmp_path):
    for content, message in (("{", "is not valid JSON"), ([3], "list of frames")):
        write(tmp_path / "x.json", content)
        with pytest.raises(ValueError, match=message):
            read_scalabel(tmp_path / "x.json")
    write(tmp_path / "x.json", [{"name": "a", "labels": [{"category": "car", "box2d": {"x1": 1}}]}])
    with pytest.raises(ValueError, match="x1, y1, x2, y2"):
        read_scalabel(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"box2d": box2d(1, 1, 2, 2)}], "category beside the box"),
        (["car"], "labels as JSON objects"),
        ({"category": "car"}, "a name and a list of labels"),
        ([label("car", 1, 1, 2, 2, attributes=[1])], "attributes as a JSON object"),
    ],
)
def test_scalabel_labels_of_another_form_are_named(tmp_path, labels, message):
    write(tmp_path / "x.json", [{"name": "a.jpg", "labels": labels}])
    with pytest.raises(ValueError, match=f"{message}.*x.json|x.json.*{message}"):
        read_scalabel(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("flag", "ignored"), [(True, True), (False, False), ("true", True), ("false", False), (1, True)]
)
@pytest.mark.parametrize("name", ["crowd", "Crowd", "ignored"])
def test_crowds_and_ignored_boxes_are_read_as_booleans_or_their_texts(
    tmp_path, name, flag, ignored
):
    rows = [label("car", 1, 1, 2, 2, attributes={name: flag})]
    write(tmp_path / "x.json", [{"name": "a.jpg", "labels": rows}])
    assert [row.ignored for row in read_scalabel(tmp_path / "x.json")["a"].boxes] == [ignored]


def test_official_predictions_are_read_back_as_they_were(tmp_path):
    found = {
        "boxes": torch.tensor([[2.0, 3.0, 12.5, 13.0]]),
        "labels": torch.tensor([8]),
        "scores": torch.tensor([0.5]),
    }
    frames = to_scalabel(["a.jpg"], [found], BDD100K_BOX_CLASSES)
    assert frames[0]["labels"][0]["box2d"] == box2d(2, 3, 11.5, 12)
    write(tmp_path / "p.json", frames)
    (row,) = read_scalabel(tmp_path / "p.json")["a"].boxes
    assert row == RawBox("traffic light", (2, 3, 12.5, 13))


def test_kitti_lines(tmp_path):
    for i in range(4):
        picture(tmp_path / "training" / "image_2" / f"00000{i}.png")
    lines = [
        "Car 0.00 0 1.9 3.50 4.50 20.25 15.00 1.5 1.6 3.6 1 1 8 0.1",
        "Van 0.00 0 1.9 1 1 9 9 1 1 1 1 1 1 1",
        "DontCare -1 -1 -10 30 2 39 9 -1 -1 -1 -1000 -1000 -1000 -10",
        "Tram 0 0 0 1 1 5 5 1 1 1 1 1 1 1",
        "",
    ]
    write(tmp_path / "training" / "label_2" / "000000.txt", "\n".join(lines))
    files = kitti_detection(tmp_path, "train")
    assert files.stems == ("000000", "000001", "000002")
    first = files.boxes[0]
    assert first.labels.tolist() == [0, 0, 0, 1, 2]
    assert first.ignored.tolist() == [False, True, True, True, True]
    assert first.boxes[0].tolist() == [3.5, 4.5, 20.25, 15]
    assert kitti_detection(tmp_path, "val").stems == ("000003",)
    assert kitti_detection(tmp_path, "train", unannotated="skip").stems == ("000000",)
    write(tmp_path / "training" / "label_2" / "000000.txt", "Car 0 0 0 1 2 three 4")
    with pytest.raises(
        ValueError, match=r"15 columns, or 16 with a score, in .*0\.txt, line 1, got 8"
    ):
        kitti_detection(tmp_path, "train")


def coco(root, **change):
    for name in ("a", "b"):
        picture(root / "images" / f"{name}.jpg")
    content = {
        "images": [{"id": 7, "file_name": "sub/a.jpg"}],
        "categories": [{"id": 3, "name": "car"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 3, 10, 5]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1},
        ],
    }
    write(root / "labels.json", content | change)
    return root / "images", root / "labels.json"


def test_coco_json(tmp_path):
    files = coco_detection(*coco(tmp_path))
    assert files.class_names == ("person", "car")
    assert files.stems == ("a", "b")
    assert files.boxes[0].boxes.tolist() == [[2, 3, 12, 8], [0, 0, 9, 9]]
    assert files.boxes[0].labels.tolist() == [1, 0]
    assert files.boxes[0].ignored.tolist() == [False, True]
    fewer = coco_detection(*coco(tmp_path), class_names=["car"], unannotated="skip")
    assert fewer.stems == ("a",)
    assert fewer.boxes[0].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"categories": None}, "COCO's JSON"),
        ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 1, 2, 2]}]}, "category 5"),
        ({"annotations": [{"image_id": 9, "category_id": 3, "bbox": [1, 1, 2, 2]}]}, "no image"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 2]}]}, "4 numbers"),
    ],
)
def test_coco_mistakes_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        coco_detection(*coco(tmp_path, **change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"category_id": 3, "bbox": [1, 1, 2, 2]}]}, "annotation 1.*image_id"),
        ({"annotations": [{"image_id": 7, "bbox": [1, 1, 2, 2]}]}, "annotation 1.*category_id"),
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": 5}]}, "4 numbers"),
        ({"annotations": ["car"]}, "annotation 1"),
        ({"annotations": 3}, "COCO's JSON"),
    ],
)
def test_coco_annotations_that_lack_something_are_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        coco_detection(*coco(tmp_path, **change))


def test_coco_classes_that_the_file_does_not_have_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"has bus, but .*labels.json has the categories person, car"
    ):
        coco_detection(*coco(tmp_path), class_names=["car", "bus"])
    with pytest.raises(ValueError, match="different class names, got car, car"):
        coco_detection(*coco(tmp_path), class_names=["car", "car"])


def test_two_images_of_one_name_are_refused_with_both_named(tmp_path):
    images, labels = coco(tmp_path)
    picture(images / "sub" / "a.jpg")
    with pytest.raises(ValueError, match=r"got .*images/a\.jpg and .*images/sub/a\.jpg; rename"):
        coco_detection(images, labels)
    assert coco_detection(images, labels, exclude=["a"]).stems == ("b",)
    twice = [{"id": 7, "file_name": "x/b.jpg"}, {"id": 8, "file_name": "y/b.jpg"}]
    with pytest.raises(ValueError, match=r"labels\.json: .* got x/b\.jpg and y/b\.jpg"):
        coco_detection(*coco(tmp_path / "other", images=twice))
    root = bdd(tmp_path, "det_20/det_train.json", [FRAMES[1], FRAMES[1]])
    with pytest.raises(ValueError, match=r"det_train\.json: .* got b\.jpg and b\.jpg"):
        bdd100k_detection(root, "train")


@pytest.mark.parametrize("content", [None, b"\xff\xfe{"])
def test_label_files_that_cannot_be_read_are_named(tmp_path, content):
    images, labels = coco(tmp_path)
    labels.unlink()
    if content is not None:
        labels.write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.json: expected JSON"):
        coco_detection(images, labels)


@pytest.mark.parametrize("unannotated", ["empty", "skip", "error"])
def test_a_folder_of_labels_that_is_not_there_is_named(tmp_path, unannotated):
    picture(tmp_path / "image_2" / "1.png")
    with pytest.raises(ValueError, match=r"expected a folder of labels at .*label_2, found none"):
        kitti_detection(tmp_path, "train", unannotated=unannotated)
    picture(tmp_path / "images" / "train" / "1.png")
    with pytest.raises(ValueError, match=r"expected a folder of labels at .*labels/train"):
        yolo_detection(tmp_path, "train", class_names=["car"], unannotated=unannotated)


def test_class_ids_follow_other_names_and_other_classes_are_refused_or_dropped(tmp_path):
    files = coco_detection(*coco(tmp_path))
    assert files.class_names == ("person", "car")
    more = files.renumbered(["bus", "car", "person"])
    assert more.class_names == ("bus", "car", "person")
    assert [b.labels.tolist() for b in more.boxes] == [[1, 2], []]
    with pytest.raises(
        ValueError, match=r"has the classes person, car, but the training .* car, bus"
    ):
        files.renumbered(["car", "bus"])
    fewer = files.renumbered(["car", "bus"], drop=True)
    assert fewer.boxes[0].labels.tolist() == [0]
    assert fewer.boxes[0].boxes.tolist() == [[2, 3, 12, 8]]
    assert fewer.boxes[0].ignored.tolist() == [False]
    fewer.require_boxes()
    with pytest.raises(
        ValueError, match=r"expected boxes to find in 2 images, got none and 1 to be"
    ):
        files.renumbered(["person"], drop=True).require_boxes()


def test_coco_boxes_without_size_are_named(tmp_path):
    flat = [{"image_id": 7, "category_id": 3, "bbox": [1, 1, 0, 2]}]
    with pytest.raises(ValueError, match="empty or inverted"):
        coco_detection(*coco(tmp_path, annotations=flat)).check()


def yolo(root, text, names="names: [car, person]"):
    picture(root / "images" / "train" / "a.jpg")
    picture(root / "images" / "train" / "b.jpg")
    write(root / "labels" / "train" / "a.txt", text)
    write(root / "data.yaml", names)
    return root


def test_yolo_text_files_without_an_image_are_refused(tmp_path):
    yolo(tmp_path, "0 0.5 0.5 0.2 0.2")
    picture(tmp_path / "images" / "train" / "sub" / "c.jpg")
    write(tmp_path / "labels" / "train" / "classes.txt", "car\nperson")
    write(
        tmp_path / "labels" / "train" / "c.txt", "1 0.5 0.5 0.25 0.2"
    )  # not nested as its image is
    with pytest.raises(ValueError, match=r"labels/train: c\.txt have no image in the same place"):
        yolo_detection(tmp_path, "train")
    assert len(yolo_detection(tmp_path, "train", exclude=["c"])) == 2


@pytest.mark.parametrize("names", ["names: [car, person]", "names: {0: car, 1: person}"])
def test_yolo_folders(tmp_path, names):
    files = yolo_detection(yolo(tmp_path, "1 0.5 0.5 0.25 0.2\n", names), "train")
    assert files.class_names == ("car", "person")
    assert files.boxes[0].labels.tolist() == [1]
    assert files.boxes[0].boxes[0].tolist() == pytest.approx([15, 12, 25, 18])
    assert files.check() == {"car": 0, "person": 1, "ignored": 0}
    assert yolo_detection(tmp_path, "train", unannotated="skip").stems == ("a",)


def test_yolo_polygons_become_their_bounds_and_confidences_are_passed_over(tmp_path, caplog):
    lines = "0 0.5 0.2 0.75 0.4 0.25 0.6\n\n1 0.5 0.5 0.25 0.2 0.9\n"
    with caplog.at_level(logging.INFO, "fmce"):
        files = yolo_detection(yolo(tmp_path, lines), "train", columns="polygon")
    assert f"{tmp_path}/labels/train: lines of 7 columns are read as polygons" in caplog.text
    assert files.boxes[0].labels.tolist() == [0, 1]
    # The corners' least and largest x (0.25, 0.75) of 40 pixels and y (0.2, 0.6) of 30.
    np.testing.assert_allclose(files.boxes[0].boxes, [[10, 6, 30, 18], [15, 12, 25, 18]], atol=1e-4)
    for wrong in ("0 0.5 0.2 0.75 0.4 0.25 0.6 0.1", "0 0.5 0.2 0.75 0.4 0.25 x"):
        with pytest.raises(ValueError, match=r"expected .* in .*a\.txt, line 2, got"):
            yolo_detection(yolo(tmp_path, f"\n{wrong}"), "train", columns="polygon")


def test_yolo_columns_decide_nothing_where_they_may_be_several_things(tmp_path):
    triangle, square = "0 0.5 0.2 0.75 0.4 0.25 0.6", "0 0 0 0.5 0 0.5 0.5 0 0.5"
    # Numbers of corners vary in polygons alone.
    (mixed,) = yolo_detection(yolo(tmp_path, f"{triangle}\n{square}\n"), "train").boxes[:1]
    np.testing.assert_allclose(mixed.boxes, [[10, 6, 30, 18], [0, 0, 20, 15]], atol=1e-4)
    for lines in (triangle, square, f"{square}\n0 0.5 0.5 0.1 0.1"):
        with pytest.raises(
            ValueError, match=r"a\.txt, line 1, got [79]: a polygon, or a box with a"
        ):
            yolo_detection(yolo(tmp_path, lines), "train")
    pose = "0 0.5 0.5 0.3 0.2 0.45 0.45 2"
    with pytest.raises(ValueError, match=r"got 8: a box .*label_columns=box$"):
        yolo_detection(yolo(tmp_path, pose), "train")
    about = "names: [car]\nkpt_shape: [1, 3]"
    boxes = yolo_detection(yolo(tmp_path, pose, about), "train").boxes[0].boxes
    np.testing.assert_allclose(boxes, [[14, 12, 26, 18]], atol=1e-4)
    with pytest.raises(ValueError, match=r"confidence from 0 to 1 as column 6 .*line 1, got 1\.57"):
        yolo_detection(yolo(tmp_path, "0 0.5 0.5 0.3 0.2 1.57"), "train")


@pytest.mark.parametrize(
    ("name", "columns"), [("11-yolo-track1", 7), ("11-yolo-track7", 7), ("11-yolo-pose", 9)]
)
def test_track_ids_and_keypoints_are_refused_or_passed_over(name, columns):
    with pytest.raises(
        ValueError, match=rf"train0\.txt, line 1, got {columns}: a polygon, or a box"
    ):
        yolo_detection(INPUTS / "labels" / name, "train")
    files = yolo_detection(INPUTS / "labels" / name, "train", columns="box")
    np.testing.assert_allclose(files.boxes[0].boxes, [[33.6, 25.6, 62.4, 38.4]], atol=1e-4)


@pytest.mark.parametrize("ending", [".TXT", ".Txt"])
def test_endings_of_labels_may_be_in_capitals(tmp_path, ending):
    root = yolo(tmp_path, "1 0.5 0.5 0.25 0.2")
    (root / "labels" / "train" / "a.txt").rename(root / "labels" / "train" / f"a{ending}")
    assert yolo_detection(root, "train").boxes[0].labels.tolist() == [1]


def test_yolo_text_files_are_nested_as_the_images_are(tmp_path):
    yolo(tmp_path, "0 0.5 0.5 0.2 0.2")
    picture(tmp_path / "images" / "train" / "sub" / "c.jpg")
    write(tmp_path / "labels" / "train" / "sub" / "c.txt", "1 0.5 0.5 0.25 0.2")
    files = yolo_detection(tmp_path, "train")
    assert [b.labels.tolist() for b in files.boxes] == [[0], [], [1]]
    picture(tmp_path / "images" / "train" / "sub" / "a.jpg")
    with pytest.raises(ValueError, match=r"got .*train/a\.jpg and .*train/sub/a\.jpg"):
        yolo_detection(tmp_path, "train")


@pytest.mark.parametrize(
    "names", ["names: car", "- car", "names: {0: car, 2: bus}", "names: []", "names: [car", "3"]
)
def test_yolo_names_of_another_form_are_refused(tmp_path, names):
    with pytest.raises(ValueError, match=r"data\.yaml") as refused:
        yolo_detection(yolo(tmp_path, "", names), "train")
    assert "\n" not in str(refused.value)


def test_yolo_mistakes_are_named(tmp_path):
    with pytest.raises(ValueError, match="unknown class, a: 'class 2'"):
        yolo_detection(yolo(tmp_path, "2 0.5 0.5 0.2 0.2"), "train")
    with pytest.raises(ValueError, match=r"4 numbers of a box in .*a.txt, line 1"):
        yolo_detection(yolo(tmp_path, "1 0.5 0.5 0.2"), "train")
    with pytest.raises(ValueError, match="outside the image"):
        yolo_detection(yolo(tmp_path, "1 0.9 0.5 0.6 0.2"), "train").check()
    with pytest.raises(ValueError, match="expected names"):
        yolo_detection(yolo(tmp_path, "", "nc: 2"), "train")


VOC = """<annotation><object><name>car</name><difficult>0</difficult>
<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>10</xmax><ymax>12</ymax></bndbox></object>
<object><name>person</name><difficult>1</difficult>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"""


def test_pascal_voc(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    picture(tmp_path / "JPEGImages" / "other.jpg")
    write(tmp_path / "Annotations" / "a.xml", VOC)
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a\n")
    files = voc_detection(tmp_path, "train")
    assert files.stems == ("a",)
    assert [files.class_names[i] for i in files.boxes[0].labels] == ["car", "person"]
    assert files.boxes[0].boxes.tolist() == [[0, 2, 10, 12], [4, 4, 40, 30]]
    assert files.boxes[0].ignored.tolist() == [False, True]
    files.check()
    with pytest.raises(ValueError, match="unknown class, a: 'car'"):
        voc_detection(tmp_path, "train", class_names=["person"])
    write(tmp_path / "Annotations" / "a.xml", "<annotation>")
    with pytest.raises(ValueError, match="VOC's XML"):
        voc_detection(tmp_path, "train")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nz\n")
    with pytest.raises(ValueError, match="lists z"):
        voc_detection(tmp_path, "train")
    with pytest.raises(ValueError, match="list of images"):
        voc_detection(tmp_path, "val")


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [
        ("gb2312", "gb2312"),
        ("gb18030", "GBK"),
        ("big5", "big5"),
        ("shift_jis", "Shift_JIS"),
        ("utf-16", "utf-16"),
        ("utf-8-sig", "utf-8"),
        ("utf-8", None),
    ],
)
def test_voc_in_every_encoding_that_it_declares(tmp_path, encoding, declared):
    root = tmp_path
    picture(root / "JPEGImages" / "a.jpg")
    head = f'<?xml version="1.0" encoding="{declared}"?>\n' if declared else ""
    text = head + VOC.replace("<annotation>", "<annotation><folder>道路</folder>")
    (root / "Annotations").mkdir()
    (root / "Annotations" / "a.xml").write_bytes(text.encode(encoding))
    write(root / "ImageSets" / "Main" / "train.txt", "a")
    assert voc_detection(root, "train").boxes[0].boxes.tolist() == [[0, 2, 10, 12], [4, 4, 40, 30]]


@pytest.mark.parametrize("declared", ["utf-8", "ascii", "klingon"])
def test_voc_in_another_encoding_than_declared_names_its_file(tmp_path, declared):
    picture(tmp_path / "JPEGImages" / "a.jpg")
    (tmp_path / "Annotations").mkdir()
    head = f'<?xml version="1.0" encoding="{declared}"?>'
    text = head + VOC.replace("car", "道路")
    (tmp_path / "Annotations" / "a.xml").write_bytes(text.encode("gb2312"))
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a")
    with pytest.raises(ValueError, match=r"expected VOC's XML .*a\.xml|a\.xml: expected VOC's XML"):
        voc_detection(tmp_path, "train")


@pytest.mark.parametrize("name", ["09-voc-gb2312", "09-voc-blank"])
def test_voc_as_people_have_it(name):
    files = voc_detection(INPUTS / "labels" / name, "train")
    assert len(files) == 6
    assert [boxes.boxes.tolist() for boxes in files.boxes] == [[[48, 32, 88, 56]]] * 6
    files.check()


def test_lists_of_one_class_have_a_number_behind_the_name(tmp_path):
    for name in ("a", "b c", "d 1"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        write(tmp_path / "Annotations" / f"{name}.xml", VOC)
    write(tmp_path / "ImageSets" / "Main" / "car_train.txt", "a  1\nb c -1\nd 1\n")
    assert voc_detection(tmp_path, "car_train").stems == ("a", "b c", "d 1")


def test_sizes_that_labels_state_are_compared_with_the_files(tmp_path):
    root = INPUTS / "labels" / "02-coco-size"
    files = coco_detection(root / "train", root / "annotations" / "instances_train.json")
    with pytest.raises(ValueError, match=r"train0\.jpg is 192×128, its labels are for 96×64 "):
        files.check()
    picture(tmp_path / "JPEGImages" / "a.jpg")
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "a")
    for width, height, fits in ((40, 30, True), (0, 0, True), ("", "", True), (30, 40, False)):
        size = f"<annotation><size><width>{width}</width><height>{height}</height></size>"
        write(tmp_path / "Annotations" / "a.xml", VOC.replace("<annotation>", size))
        voc = voc_detection(tmp_path, "train")
        if fits:
            voc.check()
        else:
            with pytest.raises(ValueError, match=r"is 40×30, its labels are for 30×40 .*EXIF"):
                voc.check()
    frame = {"name": "a.jpg", "labels": [label("car", 1, 1, 9, 9)]}
    for content in (
        [frame | {"size": {"width": 80, "height": 60}}],
        {"frames": [frame], "config": {"imageSize": {"width": 80, "height": 60}}},
    ):
        write(tmp_path / "x.json", content)
        joined = join_labels(
            tmp_path / "JPEGImages", read_scalabel(tmp_path / "x.json"), BDD100K_NAMES, name="x"
        )
        with pytest.raises(ValueError, match="labels are for 80×60"):
            joined.check()


def test_labels_of_phone_pictures_are_those_of_the_upright_image():
    for name, box in (("01-exif6-yolo", [6.4, 2.4, 25.6, 21.6]), ("01-exif3-yolo", None)):
        files = yolo_detection(INPUTS / "images" / name, "train")
        files.check()
        image, boxes = files[0]
        assert image.shape[:2] == ((96, 64) if box else (64, 96))
        if box:
            np.testing.assert_allclose(boxes.boxes, [box], atol=1e-4)


def test_names_with_either_separator_meet_their_images():
    root = INPUTS / "labels" / "08-backslash"
    files = coco_detection(root / "train", root / "annotations" / "instances_train.json")
    assert (len(files), files.stems[0]) == (6, "train0")
    assert files.boxes[0].boxes.tolist() == [[8, 32, 48, 56]]


def test_accents_in_either_spelling_are_one_name(tmp_path):
    picture(tmp_path / "images" / "strae\u0301e.jpg")  # as macOS stores it
    write(tmp_path / "x.json", [{"name": "stra\u00e9e.jpg", "labels": [label("car", 1, 1, 9, 9)]}])
    files = join_labels(
        tmp_path / "images", read_scalabel(tmp_path / "x.json"), BDD100K_NAMES, name="x"
    )
    assert len(files.boxes[0].labels) == 1


@pytest.mark.parametrize("flag", [{"iscrowd": 1}, {"ignore": True}, {"ignore": "1", "iscrowd": 0}])
def test_coco_has_two_flags_of_ignored_regions(tmp_path, flag):
    box = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 4, 4]}
    files = coco_detection(*coco(tmp_path, annotations=[box | flag, box | {"iscrowd": 0}]))
    assert files.boxes[0].ignored.tolist() == [True, False]


def test_a_damaged_image_is_replaced_and_an_empty_set_refused(tmp_path):
    picture(tmp_path / "b.jpg")
    (tmp_path / "a.jpg").write_bytes(b"no image")
    raw = {"a": RawImage([]), "b": RawImage([RawBox("car", (1, 1, 9, 9))])}
    files = join_labels(tmp_path, raw, Classes(("car",)), name="two")
    files.check()
    assert files[0].boxes.labels.tolist() == [0]
    assert files.failures.failed_items == [0]
    assert files.select([1]).stems == ("b",)
    with pytest.raises(ValueError, match="at least one labelled image"):
        DetectionFiles(name="none", image_paths=[], boxes=[], stated_sizes=[], class_names=("car",))


@needs_data
def test_real_bdd100k_images_with_their_own_files():
    files = bdd100k_detection(DATA / "bdd100k-det-sample10", "train", unannotated="error")
    assert len(files) == 10
    counts = files.check()
    assert sum(counts.values()) == 102
    assert counts["car"] > 50
    assert files[0].image.shape == (720, 1280, 3)


def in_both_lists(root, real):
    """Write the real files of single images as the lists of both releases."""
    single = DATA / "bdd100k-det-sample10" / "labels" / "100k" / "train"
    frames = []
    for path in sorted(single.glob("*.json")):
        content = json.loads(path.read_text())
        (frame,) = content.get("frames", [content])
        labels = frame.get("objects", frame.get("labels"))
        frames.append({"name": f"{path.stem}.jpg", "labels": labels})
    for name in ("det_20/det_train.json", "bdd100k_labels_images_train.json"):
        folder = root / Path(name).stem
        write(folder / "labels" / name, frames)
        (folder / "images" / "100k").mkdir(parents=True)
        (folder / "images" / "100k" / "train").symlink_to(real.image_paths[0].parent.resolve())
        yield bdd100k_detection(folder, "train", unannotated="error")


def in_coco(root, real):
    images = [{"id": i, "file_name": path.name} for i, path in enumerate(real.image_paths)]
    annotations = [
        {"image_id": i, "category_id": k + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for i, boxes in enumerate(real.boxes)
        for (x1, y1, x2, y2), k in zip(boxes.boxes.tolist(), boxes.labels.tolist(), strict=True)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(real.class_names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(root / "coco.json", content)
    return coco_detection(real.image_paths[0].parent, root / "coco.json", unannotated="error")


def in_yolo(root, real):
    (root / "images").mkdir(parents=True)
    (root / "images" / "train").symlink_to(real.image_paths[0].parent.resolve())
    for stem, boxes in zip(real.stems, real.boxes, strict=True):
        corners = boxes.boxes.astype(float) / [1280, 720, 1280, 720]
        places = np.hstack([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]])
        rows = zip(boxes.labels.tolist(), places.tolist(), strict=True)
        lines = [f"{k} {' '.join(map(repr, place))}" for k, place in rows]
        write(root / "labels" / "train" / f"{stem}.txt", "\n".join(lines))
    return yolo_detection(root, "train", class_names=real.class_names, unannotated="error")


def in_voc(root, real):
    root.mkdir()
    (root / "JPEGImages").symlink_to(real.image_paths[0].parent.resolve())
    for stem, boxes in zip(real.stems, real.boxes, strict=True):
        objects = [
            f"<object><name>{real.class_names[k]}</name><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for (x1, y1, x2, y2), k in zip(boxes.boxes.tolist(), boxes.labels.tolist(), strict=True)
        ]
        xml = f"<annotation>{''.join(objects)}</annotation>"
        write(root / "Annotations" / f"{stem}.xml", xml)
    write(root / "ImageSets" / "Main" / "train.txt", "\n".join(real.stems))
    return voc_detection(root, "train", class_names=real.class_names, unannotated="error")


@needs_data
def test_every_format_gives_the_same_boxes_of_the_real_images(tmp_path):
    real = bdd100k_detection(DATA / "bdd100k-det-sample10", "train", unannotated="error")
    assert not any(boxes.ignored.any() for boxes in real.boxes)
    others = [
        *in_both_lists(tmp_path, real),
        in_coco(tmp_path, real),
        in_yolo(tmp_path / "yolo", real),
        in_voc(tmp_path / "voc", real),
    ]
    for files in others:
        assert files.stems == real.stems
        assert files.check() == real.check()
        for ours, theirs in zip(files.boxes, real.boxes, strict=True):
            assert ours.labels.tolist() == theirs.labels.tolist()
            np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)


@needs_data
def test_real_scalabel_file_with_an_ignored_person():
    rows = read_scalabel(DATA / "bdd100k-label-samples" / "example_ignore_annotation.json")
    first = BDD100K_NAMES.to_boxes(rows["00091078-875c1f73-0000166"].boxes)
    assert {BDD100K_BOX_CLASSES[i] for i in first.labels} == {"pedestrian"}
    assert first.ignored.tolist() == [True, False]
    assert first.boxes[1] == pytest.approx([68.0515, 301.7666, 109.7226, 427.2931], abs=1e-3)


@needs_data
def test_real_kitti_frames():
    sets = [
        kitti_detection(DATA / "kitti101", split, unannotated="error") for split in ("train", "val")
    ]
    assert [len(files) for files in sets] == [76, 25]
    assert not set(sets[0].stems) & set(sets[1].stems)
    counts = [files.check() for files in sets]
    assert sum(c["car"] for c in counts) > 200
    # The reader leaves out Truck, Tram and Misc; all others are classes or ignored regions.
    lines = [
        line.split()[0]
        for path in sorted((DATA / "kitti101" / "label_2").glob("*.txt"))
        for line in path.read_text().splitlines()
    ]
    assert sum(c["car"] for c in counts) == lines.count("Car")
    assert sum(c["ignored"] for c in counts) == (
        lines.count("Van") + lines.count("Person_sitting") + 3 * lines.count("DontCare")
    )
