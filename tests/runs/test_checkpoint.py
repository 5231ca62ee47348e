"""Checkpoints are whole or absent, verified when read, and few keep optimiser state."""

import resource
import shutil

import pytest
import torch
from safetensors.torch import save_file

from fmce.runs.checkpoint import (
    checkpoint_epochs,
    checkpoint_notes,
    checkpoint_path,
    delete_checkpoints,
    load_checkpoint,
    load_weights,
    newest_resumable,
    save_checkpoint,
)


def save(folder, *epochs):
    for epoch in epochs:
        weights = {"w": torch.full((3, 2), float(epoch)), "n": torch.tensor(epoch)}
        state = {"optimizer": {"step": epoch, "moments": torch.ones(2) * epoch}}
        save_checkpoint(folder, epoch, weights, state, {"metrics": {"epoch": epoch, "loss": 0.1}})
    return folder


def truncate(path):
    path.write_bytes(path.read_bytes()[:-2])


def with_state(folder):
    return [
        e for e in checkpoint_epochs(folder) if (checkpoint_path(folder, e) / "state.pt").exists()
    ]


def test_a_checkpoint_gives_back_weights_state_and_metrics(tmp_path):
    got = load_checkpoint(checkpoint_path(save(tmp_path, 7), 7), with_state=True)
    assert got.epoch == 7
    assert torch.equal(got.weights["w"], torch.full((3, 2), 7.0))
    assert got.weights["n"].dtype == torch.int64
    assert torch.equal(got.state["optimizer"]["moments"], torch.full((2,), 7.0))
    assert got.meta["metrics"] == {"epoch": 7, "loss": 0.1}
    assert checkpoint_notes(tmp_path)[7]["metrics"] == {"epoch": 7, "loss": 0.1}


def test_state_saved_on_another_device_is_read_onto_the_cpu(tmp_path, monkeypatch):
    # What torch notes beside each tensor that it saves; a GPU of this number is on no machine.
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:99")
    folder = save(tmp_path, 7)
    monkeypatch.undo()
    moments = load_checkpoint(checkpoint_path(folder, 7), with_state=True).state["optimizer"]
    assert moments["moments"].device == torch.device("cpu")


def test_only_the_newest_two_keep_optimiser_state(tmp_path):
    save(tmp_path, 1, 2, 3, 4)
    assert checkpoint_epochs(tmp_path) == [1, 2, 3, 4]
    assert with_state(tmp_path) == [3, 4]


def test_tied_and_strided_weights_are_written(tmp_path):
    shared = torch.arange(6.0).view(2, 3)
    save_checkpoint(tmp_path, 1, {"a": shared, "b": shared, "c": shared.T}, {}, {})
    weights = load_weights(checkpoint_path(tmp_path, 1))
    assert torch.equal(weights["a"], weights["b"])
    assert torch.equal(weights["c"], shared.T)


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_truncated_file_is_named(tmp_path, name):
    path = checkpoint_path(save(tmp_path, 1), 1)
    truncate(path / name)
    with pytest.raises(ValueError, match=f"{name} is damaged: its SHA-256"):
        load_checkpoint(path, with_state=True)


def test_one_flipped_bit_is_noticed(tmp_path):
    file = checkpoint_path(save(tmp_path, 1), 1) / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        load_weights(file.parent)


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.safetensors", "model.safetensors is missing"), ("meta.json", "has no meta.json")],
)
def test_a_missing_file_is_named(tmp_path, name, message):
    path = checkpoint_path(save(tmp_path, 1), 1)
    (path / name).unlink()
    with pytest.raises(ValueError, match=message):
        load_checkpoint(path)


def test_a_missing_epoch_names_those_at_hand(tmp_path):
    save(tmp_path, 2, 5)
    with pytest.raises(FileNotFoundError, match="epoch_0009; available epochs: 2, 5"):
        load_checkpoint(checkpoint_path(tmp_path, 9))


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt", "meta.json"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_is_moved_aside(tmp_path, name, caplog):
    truncate(checkpoint_path(save(tmp_path / "checkpoints", 1, 2, 3), 3) / name)
    checkpoint = newest_resumable(tmp_path / "checkpoints")
    assert checkpoint.epoch == 2
    assert torch.equal(checkpoint.state["optimizer"]["moments"], torch.full((2,), 2.0))
    skipped, moved = caplog.messages
    assert skipped.startswith("skipping a damaged checkpoint, epoch 3: ")
    assert moved == f"moved checkpoints of epochs [3] to {tmp_path / 'checkpoints.damaged'}"
    assert checkpoint_epochs(tmp_path / "checkpoints") == [1, 2]
    assert checkpoint_epochs(tmp_path / "checkpoints.damaged") == [3]


def test_without_an_intact_one_there_is_none(tmp_path, caplog):
    assert newest_resumable(tmp_path / "nothing") is None
    assert caplog.messages == []
    for epoch in (1, 2):
        truncate(checkpoint_path(save(tmp_path / "c", epoch), epoch) / "model.safetensors")
    assert newest_resumable(tmp_path / "c") is None
    assert ["epoch 2" in caplog.messages[0], "epoch 1" in caplog.messages[1]] == [True, True]
    assert caplog.messages[-1] == "no checkpoint is left to resume from; starting again"


def test_a_checkpoint_being_written_is_not_there_yet(tmp_path):
    save(tmp_path, 1)
    shutil.copytree(checkpoint_path(tmp_path, 1), tmp_path / ".epoch_0002.1f2e.tmp")
    assert checkpoint_epochs(tmp_path) == [1]
    save(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["epoch_0001", "epoch_0002"]


def test_deleting_keeps_what_is_asked_for(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5)
    assert delete_checkpoints(tmp_path, keep=[1, 4, 99]) == [2, 3, 5]
    assert checkpoint_epochs(tmp_path) == [1, 4]


def test_weights_of_a_bare_safetensors_file_are_read(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "some.safetensors")
    assert torch.equal(load_weights(tmp_path / "some.safetensors")["w"], torch.ones(2))
    truncate(tmp_path / "some.safetensors")
    with pytest.raises(ValueError, match="expected a complete safetensors file"):
        load_weights(tmp_path / "some.safetensors")


def test_a_state_that_holds_code_is_not_run(tmp_path):
    import pickle

    path = checkpoint_path(save(tmp_path, 1), 1)
    torch.save({"optimizer": test_deleting_keeps_what_is_asked_for}, path / "state.pt")
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(path / "state.pt", weights_only=True)
    with pytest.raises(ValueError, match="is damaged"):
        load_checkpoint(path, with_state=True)


@pytest.mark.parametrize("large", ["weights", "state"])
def test_a_full_disk_is_said_and_leaves_earlier_checkpoints_whole(tmp_path, large):
    small = {"x": torch.zeros(1)}
    save_checkpoint(tmp_path, 1, small, small, {})
    parts = {"weights": small, "state": small} | {large: {"x": torch.zeros(100_000)}}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # writes beyond it fail
    try:
        with pytest.raises(
            OSError, match=r"cannot write the checkpoint .*epoch_0002.* MB are free"
        ):
            save_checkpoint(tmp_path, 2, parts["weights"], parts["state"], {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert checkpoint_epochs(tmp_path) == [1]
    assert load_checkpoint(tmp_path / "epoch_0001").epoch == 1
