"""Every reader of a user's file: whatever it holds, one line that names the file and what to do."""

import shutil

import numpy as np
import pytest
from PIL import Image

from fmce.config.io import read_yaml
from fmce.convergence.files.curves import read_curve
from fmce.convergence.files.tensorboard import read_event_curve
from fmce.data.classification.catalog import spec_of
from fmce.data.classification.image_folder import read_image_folder
from fmce.data.classification.torchvision_files import read_npz
from fmce.data.detection.formats import (
    coco_detection,
    kitti_detection,
    voc_detection,
)
from fmce.data.detection.scalabel import bdd100k_detection, read_scalabel
from fmce.data.detection.yolo import yolo_detection
from fmce.data.frames.folders import bdd100k_excluded_stems
from fmce.data.frames.shards import open_shards
from fmce.data.image_files import read_stems
from fmce.files import read_json, read_json_lines
from fmce.models.fmce_net import FMCENet
from fmce.runs.checkpoint import load_weights
from fmce.runs.run import open_run
from fmce.runs.weights import read_state_dict

CONTENTS = {
    "another encoding": "Tür: größer\n".encode("latin-1"),
    "UTF-16 without a mark": '{"epoch": 1}\n'.encode("utf-16-le"),
    "nothing": b"",
    "an object of another kind": b'{"settings": {"colour": "red"}}\n',
    "a list of another kind": b'[["a", 1], ["b", 2]]\n',
    "a text in JSON": b'"hello"\n',
    "a number in JSON": b"7\n",
    "JSON cut short": b'{"images": [{"id": 1, "file_',
    "random bytes": bytes(np.random.default_rng(0).integers(1, 255, 400, dtype=np.uint8)),
}
ANY_JSON = (
    *("an object of another kind", "a list of another kind", "a text in JSON", "a number in JSON"),
)


def images(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (16, 16)).save(folder / name)
    return folder


def voc(path):
    root = path.parents[1]
    images(root / "JPEGImages", "a.jpg")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    (root / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    return voc_detection(root, "train")


def voc_list(path):
    root = path.parents[2]
    images(root / "JPEGImages", "a.jpg")
    (root / "Annotations").mkdir()
    return voc_detection(root, "train")


def yolo(path):
    root = path.parents[2]
    images(root / "images" / "train", "a.jpg")
    (root / "data.yaml").write_text("names: [car]\ntrain: images/train\n")
    return yolo_detection(root, "train")


def yolo_names(path):
    images(path.parent / "images" / "train", "a.jpg")
    labels = path.parent / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return yolo_detection(path.parent, "train")


def kitti(path):
    root = path.parents[1]
    images(root / "image_2", "000001.png")
    return kitti_detection(root, "train")


def bdd(path):
    root = path.parents[2]
    images(root / "images" / "100k" / "train", "a.jpg")
    return bdd100k_detection(root, "train")


def coco(path):
    return coco_detection(images(path.parent / "images", "a.jpg"), path)


def image_folder(path):
    images(path.parent, "whole.png")
    images(path.parents[1] / "b", "whole.png")
    return read_image_folder(path.parents[2], 16)


# Reader: the file's place below a folder, how it is read, and contents that it may hold.
READERS = {
    "loss curve, CSV": ("log.csv", read_curve, ()),
    "loss curve, JSON": ("log.json", read_curve, ()),
    "loss curve, JSON lines": ("log.jsonl", read_curve, ()),
    "event file": ("events.out.tfevents.1", read_event_curve, ()),
    "JSON": ("any.json", read_json, ANY_JSON),
    "JSON lines": ("any.jsonl", read_json_lines, ("nothing", *ANY_JSON)),
    "config": ("config.yaml", read_yaml, ("nothing", "an object of another kind")),
    "COCO": ("labels.json", coco, ()),
    "Scalabel": ("labels.json", read_scalabel, ()),
    "BDD100K": ("labels/det_20/det_train.json", bdd, ()),
    "BDD100K, held out": (
        "labels/det_val.json",
        lambda path: bdd100k_excluded_stems(path.parents[1]),
        (),
    ),
    "VOC": ("Annotations/a.xml", voc, ()),
    "VOC's list": ("ImageSets/Main/train.txt", voc_list, ("nothing",)),
    "YOLO": ("labels/train/a.txt", yolo, ("nothing",)),
    "YOLO's names": ("data.yaml", yolo_names, ()),
    "KITTI": ("label_2/000001.txt", kitti, ("nothing",)),
    "index of shards": ("shards.json", lambda path: open_shards(str(path.parent)), ()),
    "npz": ("mini.npz", lambda path: read_npz(path, spec_of("mini-imagenet")), ()),
    "image folder": ("train/a/x.png", image_folder, ()),
    "weights": ("model.safetensors", load_weights, ()),
    "weights of torch.save": ("model.pth", read_state_dict, ()),
    "FMCE-Net": ("fmce_net.safetensors", FMCENet.load, ()),
    "list of stems": ("list.txt", read_stems, ("nothing", "JSON cut short", *ANY_JSON)),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_names_its_file_and_a_remedy(reader, content, tmp_path):
    place, read, accepted = READERS[reader]
    if content in accepted:
        pytest.skip(f"{reader} may hold {content}")
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENTS[content])
    with pytest.raises((ValueError, OSError)) as raised:
        read(path)
    message = str(raised.value)
    assert path.name in message
    found, _, remedy = message.rpartition("; ")
    assert found
    assert len(remedy.split()) > 2
    assert "\n" not in message


@pytest.mark.parametrize("content", [c for c in CONTENTS if c != "an object of another kind"])
def test_a_run_folder_names_its_config(content, finished_run, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run.path, run)
    (run / "config.yaml").write_bytes(CONTENTS[content])
    with pytest.raises((ValueError, OSError), match=r"config\.yaml"):
        open_run(run).config  # noqa: B018
