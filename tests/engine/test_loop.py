"""`fit` against a loop written out by hand, and what stops it."""

import math

import pytest
import torch
from torch import nn

from fmce.engine.loop import CHECK_EVERY, SCHEDULES, StepOutput, TrainingStoppedError, cosine, fit
from fmce.engine.runtime import Runtime
from fmce.seeding import seed_epoch

CPU = Runtime(torch.device("cpu"))


class Noisy:
    """Batches of unlike sizes that draw from the global generator, as a user's may."""

    def __init__(self, sizes=(4, 4, 3)):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def epoch(self, _epoch):
        for size in self.sizes:
            x = torch.randn(size, 5)
            yield x, x.sum(1, keepdim=True)


def new_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 1))


def step_of(model):
    def step(batch):
        x, y = batch
        loss = (model(x) - y).square().mean()
        return StepOutput(loss, len(x), {"rows": torch.tensor(float(len(x)))})

    return step


def run_fit(model, epochs, batches=None, step=None, **options):
    results = []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    fit(
        model,
        step or step_of(model),
        Noisy() if batches is None else batches,
        optimizer,
        epochs=epochs,
        seed=5,
        runtime=CPU,
        on_epoch_end=results.append,
        **options,
    )
    return results


def test_losses_and_weights_equal_a_bare_loop_bit_for_bit():
    ours, bare = new_model(), new_model()
    results = run_fit(ours, 3, schedule=cosine(3))
    optimizer, losses = torch.optim.Adam(bare.parameters(), lr=0.01), []
    for epoch in (1, 2, 3):
        seed_epoch(5, epoch)
        optimizer.param_groups[0]["lr"] = 0.01 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / 3))
        total = 0.0
        for x, y in Noisy().epoch(epoch):
            loss = (bare(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / 11)
    assert [r.loss for r in results] == losses
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), bare.parameters(), strict=True))


def test_the_epochs_mean_weighs_batches_by_their_samples():
    values = iter([1.0, 1.0, 8.0])
    model = nn.Linear(1, 1)

    def step(batch):
        size = len(batch[0])
        loss = model.bias.sum() * 0 + next(values)
        return StepOutput(loss, size, {"share": torch.tensor(size / 2)})

    (result,) = run_fit(model, 1, Noisy((4, 4, 2)), step)
    assert result.loss == (4 * 1 + 4 * 1 + 2 * 8) / 10
    assert result.means == {"share": 0.5}


def test_going_on_at_an_epoch_equals_never_having_stopped():
    whole, parts = new_model(), new_model()
    run_fit(whole, 4, schedule=cosine(4))
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.01)
    for epochs in (2, range(3, 5)):
        arguments = {"epochs": epochs, "seed": 5, "runtime": CPU, "schedule": cosine(4)}
        fit(parts, step_of(parts), Noisy(), optimizer, **arguments)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True)
    )


def test_the_model_is_in_training_mode_and_steps_are_counted():
    model, seen = new_model().eval(), []
    run_fit(model, 2, on_step_end=lambda e, s: seen.append((e, s, model.training)))
    assert seen == [(e, s, True) for e in (1, 2) for s in (1, 2, 3)]


@pytest.mark.parametrize("bad_step", [1, 3, CHECK_EVERY, CHECK_EVERY + 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_epoch_and_step(bad_step, value):
    model, count = nn.Linear(5, 1), 0

    def step(batch):
        nonlocal count
        count += 1
        loss = model(batch[0]).mean()
        return StepOutput(loss * value if count == 60 + bad_step else loss, 1, {})

    with pytest.raises(TrainingStoppedError, match=rf"in epoch 2, step {bad_step}; try a lower"):
        run_fit(model, 3, Noisy((1,) * 60), step)


def test_no_epoch_is_recorded_after_a_stop():
    model, results = nn.Linear(5, 1), []

    def step(batch):
        return StepOutput(model(batch[0]).mean() * math.nan, 1, {})

    with pytest.raises(TrainingStoppedError):
        run_fit(model, 1, step=step, on_step_end=lambda e, s: results.append(s))
    assert results == [1, 2, 3]


def test_an_epoch_may_end_where_the_loss_was_just_looked_at():
    (result,) = run_fit(new_model(), 1, Noisy((2,) * CHECK_EVERY))
    assert math.isfinite(result.loss)


def test_an_empty_training_set_is_named():
    with pytest.raises(TrainingStoppedError, match="epoch 1 has no batches"):
        run_fit(new_model(), 1, Noisy(()))


@pytest.mark.parametrize("epochs", [1, 7])
def test_cosine_equals_torchs_schedule(epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(1, epochs + 1):
        assert cosine(epochs)(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        theirs.step()
    assert cosine(epochs)(epochs + 1) == pytest.approx(0, abs=1e-12)


def test_the_constant_schedule_leaves_the_rate():
    assert [SCHEDULES["constant"](9)(e) for e in (1, 5, 9)] == [1.0, 1.0, 1.0]
    (result,) = run_fit(new_model(), 1)
    assert result.learning_rate == 0.01


def test_the_step_schedule_drops_after_half_and_after_three_quarters():
    def rates(epochs):
        return [SCHEDULES["step"](epochs)(e) for e in range(1, epochs + 1)]

    assert rates(8) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    # Half of 5 epochs are over only after the third, three quarters after the fourth.
    assert rates(5) == pytest.approx([1, 1, 1, 0.1, 0.01])
    assert rates(1) == [1.0]


def test_the_step_schedule_equals_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, [20, 30], gamma=0.1)
    for epoch in range(1, 41):
        assert SCHEDULES["step"](40)(epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
