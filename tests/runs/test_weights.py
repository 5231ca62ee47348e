"""Weights from anywhere: prefixes, files of torch.save, and messages that tell what does not fit."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fmce.runs.checkpoint import save_checkpoint
from fmce.runs.weights import load_into, read_state_dict, weights_file


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def same(model, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(*(m.state_dict().values() for m in (model, other)), strict=True)
    )


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "net.backbone."]
)
@pytest.mark.parametrize("ending", ["safetensors", "pth", "pt"])
def test_a_prefix_of_all_names_is_recognised_and_named(tmp_path, caplog, prefix, ending):
    saved, loaded = network(), network()
    weights = {f"{prefix}{name}": value for name, value in saved.state_dict().items()}
    path = tmp_path / f"a.{ending}"
    save_file(weights, path) if ending == "safetensors" else torch.save(weights, path)
    with caplog.at_level(logging.INFO, "fmce"):
        load_into(loaded, path, "the network")
    assert same(saved, loaded)
    told = [f"{path}: names read with '' in place of the prefix {prefix!r}"]
    assert caplog.messages == (told if prefix else [])


@pytest.mark.parametrize("container", ["state_dict", "model", "model_state_dict"])
def test_containers_are_looked_into(tmp_path, container):
    saved, loaded = network(), network()
    torch.save({container: saved.state_dict(), "epoch": 3}, tmp_path / "a.pth")
    load_into(loaded, tmp_path / "a.pth", "the network")
    assert same(saved, loaded)


def test_a_file_goes_by_its_content_and_not_by_its_ending(tmp_path):
    saved = network()
    torch.save(saved.state_dict(), tmp_path / "model.safetensors")
    save_file(saved.state_dict(), tmp_path / "b.pth")
    for name in ("model.safetensors", "b.pth"):
        loaded = network()
        load_into(loaded, tmp_path / name, "the network")
        assert same(saved, loaded)


def test_a_message_tells_every_kind_of_misfit_however_long(tmp_path):
    weights = network().state_dict() | {"3.weight": torch.zeros(19, 4), "a" * 400: torch.zeros(1)}
    del weights["3.bias"]
    save_file(weights, tmp_path / "a.safetensors")
    message = (
        r"a\.safetensors does not fit the network: of its 9 weights 1 missing \(3\.bias\); 1 unknown \(a{400}\); "
        r"1 of another shape \(3\.weight \(19, 4\), expected \(2, 4\)\)$"
    )
    with pytest.raises(ValueError, match=message):
        load_into(network(), tmp_path / "a.safetensors", "the network")
    prefixed = {f"module.{k}": v for k, v in weights.items()}
    save_file(prefixed, tmp_path / "b.safetensors")
    with pytest.raises(
        ValueError, match=r"with '' in place of the prefix 'module\.', 7 of 9 would fit"
    ):
        load_into(network(), tmp_path / "b.safetensors", "the network")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(tmp_path, value):
    weights = network().state_dict()
    weights["0.weight"][1, 2] = value
    torch.save(weights, tmp_path / "a.pt")
    with pytest.raises(
        ValueError, match=r"a\.pt holds NaN or infinite values in 1 weights \(0\.weight\)"
    ):
        load_into(network(), tmp_path / "a.pt", "the network")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save(network(), tmp_path / "whole.pth")
    with pytest.raises(
        ValueError, match=r"whole\.pth cannot be read as weights alone .*save its state dict"
    ):
        load_into(network(), tmp_path / "whole.pth", "the network")


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut off"])
def test_what_holds_no_weights_is_named(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"a\.pth( cannot be read|: expected weights as safetensors or torch.save)"
    ):
        read_state_dict(tmp_path / "a.pth")
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth: expected a state dict of tensors, got a dict"):
        read_state_dict(tmp_path / "b.pth")


def test_a_folder_has_one_file_of_weights(tmp_path):
    with pytest.raises(ValueError, match=r"expected one file of weights .* found none"):
        weights_file(tmp_path)
    for name in ("model.pth", "notes.txt"):
        torch.save(network().state_dict(), tmp_path / name)
    assert weights_file(tmp_path) == tmp_path / "model.pth"
    torch.save(network().state_dict(), tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"found last\.pt, model\.pth; name the file itself"):
        weights_file(tmp_path)
    save_file(network().state_dict(), tmp_path / "model.safetensors")
    assert weights_file(tmp_path).name == "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        weights_file(tmp_path / "nowhere")
    saved = network()
    save_checkpoint(tmp_path / "checkpoints", 7, saved.state_dict(), {}, {})
    loaded = network()
    load_into(loaded, tmp_path / "checkpoints" / "epoch_0007", "the network")
    assert same(saved, loaded)


def test_a_tensor_without_values_is_named(tmp_path):
    torch.save({"a": torch.ones(1), "b": torch.ones(2, device="meta")}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth: expected plain weights, got b"):
        read_state_dict(tmp_path / "a.pth")
