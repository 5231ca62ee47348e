"""`fmce explain`: Grad-CAM over the phases of a run."""

import numpy as np
import pytest
import torch

from fmce.digests import read_record
from fmce.maturity.explain import explain, one_of_each_class
from fmce.models.grad_cam import cam_numbers, grad_cam


def test_images_are_of_each_class_in_turn():
    targets = torch.tensor([2, 0, 0, 1, 2, 1, 0])
    assert one_of_each_class(targets, 3).tolist() == [1, 3, 0]
    assert one_of_each_class(targets, 7).tolist() == [1, 3, 0, 2, 5, 4, 6]


def test_maps_are_those_of_each_markers_model(own_run):
    result = explain(own_run, num_images=4)
    with np.load(own_run.path / "explain" / "grad_cam.npz") as arrays:
        cams, images = arrays["cams"], arrays["images"]
    assert cams.shape == (3, 4, 2, 2)
    index = torch.tensor(result["test_index"])
    assert np.array_equal(images, own_run.setup.data.test.images[index].numpy())
    from fmce.engine.runtime import make_runtime

    x = own_run.setup.images(own_run.setup.data.test, make_runtime("cpu"))(index)
    model = own_run.model(own_run.phases.markers[1])
    expected = grad_cam(model, x, own_run.setup.data.test.targets[index], own_run.setup.layer)
    np.testing.assert_allclose(cams[1], expected.numpy(), rtol=1e-5, atol=1e-7)


def test_numbers_are_of_the_maps_beside_them(own_run):
    result = explain(own_run, num_images=3)
    with np.load(own_run.path / "explain" / "grad_cam.npz") as arrays:
        cams = arrays["cams"]
    for phase in range(3):
        numbers = cam_numbers(cams[phase], cams[phase - 1] if phase else None)
        for name, values in numbers._asdict().items():
            got = [np.nan if v is None else v for v in result["per_image"][phase][name]]
            np.testing.assert_allclose(got, values, rtol=1e-6)
    assert {**read_record(own_run.path / "explain" / "numbers.json"), "sha256": None} == {
        **result,
        "sha256": None,
    }
    assert result["classes"] == ["0", "1", "2"]
    assert result["epochs"] == list(own_run.phases.markers)


def test_the_first_phase_has_no_drift_and_no_overlap(own_run):
    result = explain(own_run, num_images=2)
    assert result["per_phase"][0]["centroid_drift"] is None
    assert result["per_phase"][0]["overlap"] is None


def test_signed_maps_keep_evidence_against_the_class(own_run):
    explain(own_run, num_images=8, signed=True)
    with np.load(own_run.path / "explain" / "grad_cam.npz") as arrays:
        assert arrays["cams"].min() < 0
    explain(own_run, num_images=8)
    with np.load(own_run.path / "explain" / "grad_cam.npz") as arrays:
        assert arrays["cams"].min() >= 0


def test_a_picture_is_made(own_run):
    explain(own_run, num_images=2)
    assert (own_run.path / "explain" / "grad_cam.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("count", [0, 361])
def test_a_number_of_images_that_is_not_there_is_refused(own_run, count):
    with pytest.raises(ValueError, match=f"expected 1 to 360 images, got {count}"):
        explain(own_run, num_images=count)
