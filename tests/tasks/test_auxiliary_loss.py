"""FMCE-Net++'s step: who gets a gradient, and what stays as it is."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fmce.data.batch import ImageBatch
from fmce.models.features import FeatureMaps
from fmce.models.fmce_net import FMCENet
from fmce.models.tiny import tiny
from fmce.tasks.auxiliary_loss import feature_matching_step, mean_auxiliary, ral_step
from fmce.tasks.classification import classification_step

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


def steps_gradients(model, oracle, batch, count, **options):
    """Return outputs and gradients of the first `count` steps, weights left as they are."""
    got = [
        gradients(model, ral(oracle, 0.6, **options), batch._replace(step=s)) for s in range(count)
    ]
    return [output for output, _ in got], [g for _, g in got]


def test_over_n_steps_every_nth_has_the_published_mean_gradient(model, oracle, batch):
    _, published = gradients(model, ral(oracle, 0.6), batch)
    _, cheap = steps_gradients(model, oracle, batch, 3, oracle_every=3)
    for name, value in published.items():
        mean = torch.stack([g[name] for g in cheap]).mean(0)
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=1e-6)


def test_steps_between_train_on_the_tasks_weighted_loss_alone(model, oracle, batch):
    outputs, _ = steps_gradients(model, oracle, batch, 4, oracle_every=3)
    base = [o.sums["task_loss"].item() / 6 for o in outputs]
    assert [
        o.loss.item() == pytest.approx(0.6 * b) for o, b in zip(outputs, base, strict=True)
    ] == [
        False,
        True,
        True,
        False,
    ]
    assert [o.sums["auxiliary_share"].item() for o in outputs] == [6, 0, 0, 6]
    pull = outputs[0].sums["auxiliary_loss"].item() / 6
    assert outputs[0].loss.item() == pytest.approx(0.6 * base[0] + 3 * 0.4 * pull)


def test_the_oracle_is_not_called_at_the_steps_between(model, oracle, batch):
    calls = []
    oracle.register_forward_hook(lambda _m, inputs, _o: calls.append(len(inputs[0])))
    steps_gradients(model, oracle, batch, 6, oracle_every=3, oracle_batch_fraction=0.5)
    assert calls == [3, 3]


def test_a_part_of_the_batch_is_judged_by_its_own_mean(model, oracle, batch):
    output, got = gradients(model, ral(oracle, 0.0, oracle_batch_fraction=1 / 3), batch)
    # In training mode batch norm mixes the images, so the part is cut from the whole batch's maps.
    net = copy.deepcopy(model)
    with FeatureMaps(net, TAP, keep_gradients=True) as maps:
        net(batch.images)
        loss = F.cross_entropy(oracle(maps.single(TAP)[:2]), torch.tensor([2, 2]))
        loss.backward()
    assert output.loss.item() == pytest.approx(loss.item())
    assert output.sums["auxiliary_loss"].item() == pytest.approx(2 * loss.item())
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(got[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("share", "images"), [(0.01, 1), (0.25, 2), (0.5, 3), (0.75, 4), (1.0, 6)])
def test_the_share_is_rounded_to_whole_images_and_never_to_none(
    model, oracle, batch, share, images
):
    seen = []
    oracle.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    gradients(model, ral(oracle, 0.5, oracle_batch_fraction=share), batch)
    assert seen == [images]


def test_the_published_form_is_what_the_options_give_at_1(model, oracle, batch):
    plain, one = gradients(model, ral(oracle, 0.7), batch)
    output, other = gradients(
        model, ral(oracle, 0.7, oracle_every=1, oracle_batch_fraction=1.0), batch._replace(step=5)
    )
    assert torch.equal(plain.loss, output.loss)
    assert all(torch.equal(one[n], other[n]) for n in one)
    assert set(output.sums) == {"accuracy", "task_loss", "auxiliary_loss"}


def test_an_epochs_auxiliary_loss_is_the_mean_over_the_images_that_were_judged():
    assert mean_auxiliary({"auxiliary_loss": 0.6, "auxiliary_share": 0.2}) == {
        "auxiliary_loss": pytest.approx(3.0)
    }
    assert mean_auxiliary({"auxiliary_loss": 0.0, "auxiliary_share": 0.0}) == {
        "auxiliary_loss": None
    }
    assert mean_auxiliary({"auxiliary_loss": 0.6}) == {}


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


@pytest.mark.parametrize("auxiliary", ["ral", "feature_matching"])
def test_maps_that_carry_no_gradient_are_refused_at_the_first_step(model, oracle, batch, auxiliary):
    for part in (model.stem, model.blocks):
        part.requires_grad_(False)
    with FeatureMaps(model, TAP, keep_gradients=True) as maps:
        if auxiliary == "ral":
            step = ral_step(model, maps, TAP, oracle, raf=0.5)
        else:
            step = feature_matching_step(
                model, maps, TAP, lambda images: torch.ones(len(images), 16, 2, 2), raf=0.5
            )
        with pytest.raises(ValueError, match=rf"maps of '{TAP}' carry no gradient"):
            step(batch)


def test_maps_of_an_earlier_step_are_not_used_again(model, oracle, batch):
    other = copy.deepcopy(model)
    with FeatureMaps(model, TAP, keep_gradients=True) as maps:
        ral_step(model, maps, TAP, oracle, raf=0.5)(batch)
        elsewhere = ral_step(other, maps, TAP, oracle, raf=0.5)
        with pytest.raises(ValueError, match="was not called"):
            elsewhere(batch)
