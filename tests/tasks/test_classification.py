"""The plain classifier's step and evaluation."""

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, log_loss
from torch import nn

from fmce.data.batch import ImageBatch, ImageBatches, ImageSet
from fmce.data.transforms import ImageTransform
from fmce.engine.runtime import Runtime
from fmce.tasks.classification import classification_step, evaluate_classifier

CPU = Runtime(torch.device("cpu"))


def model():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten())
    return nn.Sequential(body, nn.Dropout(0.5), nn.Linear(64, 3))


def image_batches(batch_size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=generator)
    part = ImageSet(images, torch.arange(10) % 3)
    return ImageBatches(part, ImageTransform(4, (0.5,) * 3, (0.2,) * 3), batch_size)


def test_the_step_gives_mean_cross_entropy_and_counts_correct_images():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], requires_grad=True)
    batch = ImageBatch(torch.zeros(3, 3, 1, 1), torch.tensor([0, 1, 1]), torch.arange(3))
    output = classification_step(lambda _images: logits)(batch)
    expected = log_loss([0, 1, 1], logits.detach().softmax(1).numpy())
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert (output.num_samples, output.sums["accuracy"].item()) == (3, 2)


@pytest.mark.parametrize("batch_size", [3, 10])
def test_evaluation_equals_scikit_learn_on_all_images_at_once(batch_size):
    net = model()
    scores = evaluate_classifier(net, image_batches(batch_size), CPU)
    (batch,) = image_batches(10).epoch()
    with torch.no_grad():
        logits = net.eval()(batch.images).double()  # scikit-learn wants sums of one to 8 digits
    assert scores.loss == pytest.approx(log_loss(batch.targets, logits.softmax(1)), rel=1e-5)
    assert scores.accuracy == accuracy_score(batch.targets, logits.argmax(1))


def test_evaluation_leaves_modes_and_statistics_as_found():
    net = model()
    net[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    evaluate_classifier(net, image_batches(4), CPU)
    assert (net.training, net[0].training, net[1].training) == (True, False, True)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())


def test_in_half_precision_the_loss_is_taken_in_float32():
    net, half = model(), Runtime(torch.device("cpu"), "bfloat16")
    (batch,) = image_batches(10).epoch()
    with half.autocast():
        output = classification_step(net)(batch)
    assert output.loss.dtype == torch.float32
    assert F.cross_entropy(net(batch.images), batch.targets).item() == pytest.approx(
        output.loss.item(), rel=0.5
    )


def test_a_model_with_auxiliary_outputs_in_training_is_refused():
    step = classification_step(lambda _images: (torch.zeros(1, 2), torch.zeros(1, 2)))
    batch = ImageBatch(torch.zeros(1, 3, 1, 1), torch.tensor([0]), torch.arange(1))
    with pytest.raises(ValueError, match="one tensor, got a tuple in training mode"):
        step(batch)
