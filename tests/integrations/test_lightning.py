"""The callback in real fits of Lightning."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from fmce import module_table, open_run
from fmce.runs.log import read_metrics
from tests.recorder.loops import Small, digits

lightning = pytest.importorskip("lightning.pytorch")
from fmce.integrations.lightning import MaturityCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = Small()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _index):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _index):
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def loader(seed=0):
    # Order by epoch and index alone, as a resumed fit needs.
    return DataLoader(TensorDataset(*digits()), batch_size=100)


def fit(folder, epochs, *, checkpoint=None, callbacks=(), **options):
    torch.manual_seed(0)
    model = Classifier()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    callback = MaturityCallback(
        folder / "run",
        ["net.stem", "net.late", "net.head"],
        digits()[0][:32],
        **options.pop("maturity", {}),
    )
    saver = lightning.callbacks.ModelCheckpoint(
        folder / "mine", save_top_k=-1, **options.pop("saver", {})
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            callbacks=[callback, saver, *callbacks],
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(model, loader(), loader(), ckpt_path=checkpoint)
    return callback, model


def rows_of(folder):
    return [
        {k: v for k, v in row.items() if k != "time_seconds"}
        for row in read_metrics(folder / "run")
    ]


def test_a_fit_is_recorded(tmp_path):
    callback, _ = fit(tmp_path, 3)
    run = open_run(tmp_path / "run")
    assert run.done["epochs"] == 3
    row = run.curve[-1]
    assert row["loss"] == pytest.approx(callback.status.loss)
    assert row["validation_loss"] > 0
    assert row["learning_rate"] == 3e-3
    assert not callback.status.alarms
    assert [r.name for r in module_table(run.path).rows] == ["net.stem", "net.late", "net.head"]


def test_the_weights_are_those_of_a_fit_without_it(tmp_path):
    _, watched = fit(tmp_path, 2)
    torch.manual_seed(0)
    plain = Classifier()
    for module in plain.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(plain, loader(), loader())
    pairs = zip(plain.state_dict().values(), watched.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


class Kill(lightning.Callback):
    """Ends the fit in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_batch_start(self, trainer, module, batch, index):
        if trainer.current_epoch == self.epoch and index == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("saver", [{}, {"save_on_train_epoch_end": True}])
def test_killed_and_resumed_it_has_the_rows_of_an_undisturbed_fit(tmp_path, saver):
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, _ = fit(tmp_path / "whole", 5, saver=saver)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path / "cut", 5, callbacks=[Kill(3)], saver=saver)
    newest = sorted((tmp_path / "cut/mine").glob("*.ckpt"), key=lambda p: p.stat().st_mtime)[-1]
    again, _ = fit(tmp_path / "cut", 5, checkpoint=newest, saver=saver)
    assert rows_of(tmp_path / "cut") == rows_of(tmp_path / "whole")
    assert str(again.status) == str(whole.status)


def test_accumulated_gradients_give_the_batch_loss(tmp_path):
    fit(tmp_path, 1, accumulate_grad_batches=2)
    assert 1 < read_metrics(tmp_path / "run")[0]["loss"] < 3


def test_it_stops_a_fit_at_rest(tmp_path, monkeypatch):
    from fmce.recorder.status import Status

    monkeypatch.setattr(Status, "at_rest", property(lambda self: self.epoch == 2))
    fit(tmp_path, 9, maturity={"stop": "at_rest"})
    assert len(read_metrics(tmp_path / "run")) == 2
