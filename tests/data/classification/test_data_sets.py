"""Data sets by name: torchvision's layout, `.npz` arrays, and what is said where files are missing or damaged."""

import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from fmce.data.classification.catalog import SPECS, data_root, spec_of
from fmce.data.classification.classification import download_data, load_classification

NEEDS_DATA = pytest.mark.skipif(
    not os.environ.get("FMCE_DATA"),
    reason="FMCE_DATA is not set: the folder with MNIST, FashionMNIST, cifar10.npz and cifar100.npz",
)
PARTS = ("train", "validation", "test")


def images(count, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root):
    """Write a small MNIST in torchvision's layout; return its images and classes by part."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    parts = {}
    for seed, (part, count) in enumerate((("train", 200), ("t10k", 50))):
        parts[part] = images(count, 28, 28, seed=seed), np.arange(count) % 10
        write_idx(raw / f"{part}-images-idx3-ubyte", parts[part][0])
        write_idx(raw / f"{part}-labels-idx1-ubyte", parts[part][1])
    return parts


def write_npz(path, shape=(32, 32, 3), **changes):
    arrays = {"x_train": images(200, *shape), "y_train": np.arange(200) % 10}
    arrays |= {"x_test": images(50, *shape, seed=1), "y_test": np.arange(50) % 10}
    arrays |= {"class_names": np.array([f"class {c}" for c in range(10)])}
    arrays = {name: value for name, value in (arrays | changes).items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def write_cifar(root, monkeypatch):
    """Write a small CIFAR-10 in torchvision's layout and make its digests the expected ones."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    digests = {}
    for seed, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        entry = {"data": images(20, 3072, seed=seed), "labels": [i % 10 for i in range(20)]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    for path in folder.iterdir():
        digests[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    for attribute in ("train_list", "test_list"):
        known = [[name, digests[name]] for name, _ in getattr(CIFAR10, attribute)]
        monkeypatch.setattr(CIFAR10, attribute, known)
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": digests["batches.meta"]})
    return folder


def mean_and_std(channel):
    """Return both on the 0–1 scale, from whole-number sums."""
    mean = channel.sum(dtype=np.int64) / channel.size
    square = np.square(channel, dtype=np.uint16).sum(dtype=np.int64) / channel.size
    return mean / 255, (square - mean**2) ** 0.5 / 255


def rows(part):
    return {image.numpy().tobytes() for image in part.images}


def test_mnist_is_read_from_torchvisions_layout(tmp_path):
    written = write_mnist(tmp_path)
    data = load_classification("mnist", root=tmp_path)
    assert [len(getattr(data, p)) for p in PARTS] == [180, 20, 50]
    assert data.train.images.shape == (180, 1, 28, 28)
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(written["t10k"][0]))
    assert data.test.targets.tolist() == written["t10k"][1].tolist()
    assert data.class_names == tuple("0123456789")
    assert data.source == str(tmp_path / "MNIST" / "raw")


def test_validation_images_are_training_images_and_classes_are_balanced(tmp_path):
    written = write_mnist(tmp_path)
    data = load_classification("mnist", root=tmp_path)
    assert data.validation.targets.bincount().tolist() == [2] * 10
    assert rows(data.train) | rows(data.validation) == {i.tobytes() for i in written["train"][0]}
    assert not rows(data.validation) & (rows(data.train) | rows(data.test))


def test_the_split_seed_moves_validation_images_and_leaves_test_alone(tmp_path):
    write_mnist(tmp_path)
    one, same, other = (
        load_classification("mnist", root=tmp_path, split_seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(one.validation.images, same.validation.images)
    assert rows(one.validation) != rows(other.validation)
    assert torch.equal(one.test.images, other.test.images)


def test_fewer_training_images_are_balanced_and_leave_the_other_parts(tmp_path):
    write_mnist(tmp_path)
    whole, few = (load_classification("mnist", root=tmp_path, train_images=n) for n in (None, 50))
    assert few.train.targets.bincount().tolist() == [5] * 10
    assert rows(few.train) < rows(whole.train)
    assert torch.equal(few.validation.images, whole.validation.images)
    assert (few.mean, few.std) == (whole.mean, whole.std)


def test_cifar_is_read_from_torchvisions_layout(tmp_path, monkeypatch):
    folder = write_cifar(tmp_path, monkeypatch)
    data = load_classification("cifar10", root=tmp_path)
    first = pickle.loads((folder / "test_batch").read_bytes())["data"].reshape(-1, 3, 32, 32)
    assert torch.equal(data.test.images, torch.from_numpy(first))
    assert [len(getattr(data, p)) for p in PARTS] == [90, 10, 20]


def test_arrays_stand_in_where_the_layout_is_missing(tmp_path):
    written = write_npz(tmp_path / "cifar10.npz")
    data = load_classification("cifar10", root=tmp_path)
    assert data.source == str(tmp_path / "cifar10.npz")
    assert data.class_names[3] == "class 3"
    assert torch.equal(data.test.images, torch.from_numpy(written["x_test"]).permute(0, 3, 1, 2))


def test_arrays_of_grey_images_need_no_channel_axis(tmp_path):
    write_npz(tmp_path / "mnist.npz", shape=(28, 28), class_names=None)
    data = load_classification("mnist", root=tmp_path)
    assert data.train.images.shape == (180, 1, 28, 28)
    assert data.class_names == tuple("0123456789")


def test_torchvisions_layout_is_preferred_and_said_to_be(tmp_path):
    written = write_mnist(tmp_path)
    write_npz(tmp_path / "mnist.npz", shape=(28, 28))
    data = load_classification("mnist", root=tmp_path)
    assert data.source.endswith("mnist.npz is there too and was not read")
    assert torch.equal(data.test.images[:, 0], torch.from_numpy(written["t10k"][0]))


def test_a_missing_set_says_what_was_expected_where(tmp_path):
    message = (
        rf"no mnist under {tmp_path}: expected {tmp_path}/MNIST/raw with train-images-idx3-ubyte, .*"
        rf" or {tmp_path}/mnist.npz .*--data-root, or add --download"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load_classification("mnist", root=tmp_path)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    write_mnist(tmp_path)
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=f"expected {labels}; add --download"):
        load_classification("mnist", root=tmp_path)
    labels.with_name(f"{labels.name}.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"unpack t10k-labels-idx1-ubyte\.gz"):
        load_classification("mnist", root=tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0\0", b"no idx file at all", "cut"])
def test_a_damaged_idx_file_is_named(tmp_path, content):
    write_mnist(tmp_path)
    path = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] if content == "cut" else content)
    with pytest.raises(ValueError, match=f"{path} is damaged .* delete it and repeat"):
        load_classification("mnist", root=tmp_path)


def test_a_damaged_cifar_file_is_named(tmp_path, monkeypatch):
    path = write_cifar(tmp_path, monkeypatch) / "data_batch_3"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path} is damaged .its MD5"):
        load_classification("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": images(200, 32, 32, 3) / 255}, "expected uint8 images .* got float64"),
        (
            {"x_train": images(200, 32, 32, 2)},
            r"1 or 3 channels, got torch.uint8 \(200, 32, 32, 2\)",
        ),
        ({"y_train": np.arange(199) % 10}, r"one class index per image, got \(199,\) for 200"),
        ({"y_train": np.arange(200) % 11}, "class indices 0 to 9, got 0 to 10"),
        ({"y_train": np.arange(200) / 20}, "integer class indices, got float64"),
        ({"class_names": np.array(["a", "b"])}, "expected 10 class names, got 2"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path, changes, message):
    write_npz(tmp_path / "cifar10.npz", **changes)
    with pytest.raises(ValueError, match=message):
        load_classification("cifar10", root=tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_cut_off_npz_file_is_named(tmp_path, keep):
    path = tmp_path / "cifar10.npz"
    write_npz(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{path} is damaged or no .npz file"):
        load_classification("cifar10", root=tmp_path)


def test_the_root_is_named_or_the_environments_or_data(monkeypatch):
    monkeypatch.setenv("FMCE_DATA", "/somewhere")
    assert data_root("/here") == Path("/here")
    assert data_root(None) == Path("/somewhere")
    monkeypatch.delenv("FMCE_DATA")
    assert data_root(None) == Path("data")


@pytest.mark.parametrize("name", ["imagefolder", "cifar-10", "image-folder:", "digits:x"])
def test_unknown_names_list_the_choices(name):
    with pytest.raises(
        ValueError, match=r"unknown data set .*choose from digits, mnist, .*my\.module"
    ):
        spec_of(name)


def test_digits_and_letters_are_not_mirrored():
    flips = {name: spec.flip for name, spec in SPECS.items()}
    assert not flips["digits"]
    assert not flips["mnist"]
    assert flips["fashion-mnist"]
    assert flips["cifar10"]


def test_download_leaves_a_set_alone_that_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    write_mnist(tmp_path)
    download_data("mnist", tmp_path)
    (tmp_path / "other").mkdir()
    write_npz(tmp_path / "other" / "mnist.npz", shape=(28, 28))
    download_data("mnist", tmp_path / "other")
    assert not (tmp_path / "other" / "MNIST").exists()


def test_a_download_that_fails_says_which_files_are_wanted_where(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])
    message = f"could not download mnist .*train-images-idx3-ubyte.* into {tmp_path}/MNIST/raw"
    with pytest.raises(ConnectionError, match=message):
        download_data("mnist", tmp_path)


@pytest.mark.parametrize("name", ["digits", "image-folder", "my.module:function"])
def test_what_cannot_be_downloaded_is_said(name):
    with pytest.raises(ValueError, match="cannot be downloaded; leave --download out"):
        download_data(name)


@NEEDS_DATA
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mnist", (55_000, 5_000, 10_000)),
        ("fashion-mnist", (55_000, 5_000, 10_000)),
        ("cifar10", (45_000, 5_000, 10_000)),
    ],
)
def test_the_tables_statistics_are_those_of_the_official_training_images(name, sizes):
    data = load_classification(name)
    assert tuple(len(getattr(data, p)) for p in PARTS) == sizes
    official = torch.cat([data.train.images, data.validation.images]).numpy()
    means, stds = zip(
        *(mean_and_std(official[:, c]) for c in range(official.shape[1])), strict=True
    )
    np.testing.assert_allclose(data.mean, means * (3 // len(means)), atol=1e-6)
    np.testing.assert_allclose(data.std, stds * (3 // len(stds)), atol=1e-6)


@NEEDS_DATA
def test_cifar100_takes_statistics_and_names_from_its_files():
    data = load_classification("cifar100")
    assert len(data.class_names) == 100
    assert data.class_names[:2] == ("apple", "aquarium_fish")
    # Of the 1,800 training images at hand; the whole set's mean is (0.507, 0.487, 0.441).
    np.testing.assert_allclose(data.mean, (0.507, 0.487, 0.441), atol=0.01)


def test_class_indices_in_a_column_as_keras_has_them_are_read(tmp_path):
    column = (np.arange(200) % 10)[:, None]
    write_npz(tmp_path / "cifar10.npz", y_train=column)
    data = load_classification("cifar10", root=tmp_path)
    assert len(data.train) + len(data.validation) == 200
    assert data.train.targets.shape == (180,)
