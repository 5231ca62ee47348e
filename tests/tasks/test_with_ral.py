"""FMCE-Net++'s step: who gets a gradient, and what stays as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fmce.data.batch import ImageBatch
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.models.tiny import tiny
from fmce.tasks.classify import classification_step
from fmce.tasks.with_ral import feature_matching_step, ral_step

TAP = "blocks.2"


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny(10, width=4)


@pytest.fixture
def oracle():
    torch.manual_seed(1)
    return FMCENet((16, 2, 2), 3).eval().requires_grad_(False)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(6, 3, 8, 8, generator=generator)
    return ImageBatch(images, torch.arange(6), torch.arange(6))


def gradients(model, make_step, batch):
    """Return loss output and gradients by name of one step of a copy of the model."""
    model = copy.deepcopy(model)
    with FeatureMaps(model, TAP, keep_gradients=True) as maps:
        output = make_step(model, maps)(batch)
        output.loss.backward()
    return output, {n: p.grad for n, p in model.named_parameters()}


def ral(oracle, raf, **options):
    return lambda model, maps: ral_step(model, maps, TAP, oracle, raf=raf, **options)


def test_raf_1_gives_the_plain_steps_gradients(model, oracle, batch):
    _, with_ral = gradients(model, ral(oracle, 1.0), batch)
    _, plain = gradients(model, lambda m, _maps: classification_step(m), batch)
    assert all(torch.equal(with_ral[n], plain[n]) for n in plain)


def test_raf_0_gives_the_classifiers_head_no_gradient(model, oracle, batch):
    _, got = gradients(model, ral(oracle, 0.0), batch)
    assert not got["head.weight"].any()
    assert not got["head.bias"].any()
    assert got["stem.0.weight"].abs().sum() > 0
    assert got["blocks.2.residual.0.weight"].abs().sum() > 0


def test_the_loss_mixes_both_and_its_gradient_too(model, oracle, batch):
    mixed, got = gradients(model, ral(oracle, 0.7), batch)
    base, base_gradient = gradients(model, ral(oracle, 1.0), batch)
    pull, pull_gradient = gradients(model, ral(oracle, 0.0), batch)
    assert mixed.loss.item() == pytest.approx(
        0.7 * base.loss.item() + 0.3 * pull.loss.item(), rel=1e-6
    )
    for name, value in got.items():
        expected = 0.7 * base_gradient[name] + 0.3 * pull_gradient[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_the_auxiliary_loss_is_the_oracles_cross_entropy_to_the_target_phase(model, oracle, batch):
    net = copy.deepcopy(model)
    with FeatureMaps(net, TAP) as maps:
        logits = net(batch.images)
        phase_logits = oracle(maps.single(TAP))
    for target in (None, 1):
        output, _ = gradients(model, ral(oracle, 0.0, target_phase=target), batch)
        index = torch.full((6,), 2 if target is None else target - 1)
        assert output.loss.item() == pytest.approx(F.cross_entropy(phase_logits, index).item())
    assert output.sums["task_loss"].item() == pytest.approx(
        6 * F.cross_entropy(logits, batch.targets).item(), rel=1e-6
    )


def test_the_oracle_is_unchanged_and_gets_no_gradient(model, oracle, batch):
    before = copy.deepcopy(oracle.state_dict())
    with FeatureMaps(model, TAP, keep_gradients=True) as maps:
        step = ral_step(model, maps, TAP, oracle, raf=0.5)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step(batch).loss.backward()
            optimizer.step()
    assert all(torch.equal(v, oracle.state_dict()[k]) for k, v in before.items())
    assert not any(m.training for m in oracle.modules())
    assert all(p.grad is None for p in oracle.parameters())


def test_training_on_the_oracles_opinion_alone_moves_maps_to_the_last_phase(model, oracle, batch):
    oracle.head.weight.mul_(20)  # random weights alone are too undecided to be moved far
    with FeatureMaps(model, TAP, keep_gradients=True) as maps:
        step = ral_step(model, maps, TAP, oracle, raf=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        losses = []
        for _ in range(30):
            losses.append(step(batch).loss)
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def matching(teacher, raf):
    return lambda model, maps: feature_matching_step(model, maps, TAP, teacher, raf=raf)


def test_feature_matching_is_zero_at_the_models_own_maps(model, oracle, batch):
    twin = copy.deepcopy(model)
    with FeatureMaps(twin, TAP) as maps:
        twin(batch.images)
        own = maps.single(TAP)
    output, got = gradients(model, matching(lambda _images: own, 0.0), batch)
    assert output.loss.item() == 0
    assert not any(g.any() for g in got.values() if g is not None)


def test_feature_matching_pulls_the_body_and_not_the_head(model, batch):
    target = torch.ones(6, 16, 2, 2)
    output, got = gradients(model, matching(lambda _images: target, 0.0), batch)
    assert not got["head.weight"].any()
    assert got["stem.0.weight"].abs().sum() > 0
    assert output.sums["auxiliary_loss"].item() == pytest.approx(6 * output.loss.item(), rel=1e-6)


def test_feature_matching_at_raf_1_gives_the_plain_gradients(model, batch):
    _, got = gradients(model, matching(lambda _images: torch.ones(6, 16, 2, 2), 1.0), batch)
    _, plain = gradients(model, lambda m, _maps: classification_step(m), batch)
    assert all(torch.equal(got[n], plain[n]) for n in plain)


def test_the_teacher_sees_the_same_view(model, batch):
    seen = []

    def teacher(images):
        seen.append(images)
        return torch.zeros(6, 16, 2, 2)

    gradients(model, matching(teacher, 0.5), batch)
    assert torch.equal(seen[0], batch.images)
