"""On a GPU: resident images, bfloat16, memory order, TF32 and compiled training against the plain path."""

import warnings

import pytest
import torch

from fmce.config.io import with_settings
from fmce.config.run import RunConfig
from fmce.data.batch import ImageBatches, ImageSet
from fmce.data.transforms import ImageTransform
from fmce.engine.runtime import make_runtime
from fmce.feature_maps.extractor import MapExtractor
from fmce.feature_maps.recomputed import RecomputedMaps
from fmce.feature_maps.splits import split_maps
from fmce.maturity.train_classifier import train_classifier
from fmce.models.compiled import CompiledModel
from fmce.models.features import FeatureMaps
from fmce.models.tiny import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SETTINGS = ("train.epochs=1", "train.batch_size=128", "data.image_size=16")
# Relative difference of an epoch's training loss to the plain float32 path's.
SAME, ROUNDED, HALF = 1e-4, 1e-3, 1e-2


def loss_of(folder, *settings, runtime=None):
    config = with_settings(RunConfig(), [*SETTINGS, *settings])
    runtime = runtime or make_runtime("cuda")
    return train_classifier(config, folder, runtime=runtime).curve[0]["loss"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return loss_of(tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def images():
    draw = torch.manual_seed(0)
    pixels = torch.randint(0, 256, (300, 3, 20, 20), dtype=torch.uint8, generator=draw)
    return ImageSet(pixels, torch.arange(300) % 7)


@pytest.mark.parametrize("seed", [None, 5])
def test_resident_images_and_copied_batches_are_identical(images, seed):
    transform = ImageTransform(32, (0.5,) * 3, (0.2,) * 3, shift=3, noise=0.1, flip=True)
    device = torch.device("cuda", 0)
    stays, copied = (
        ImageBatches(images, transform, 64, seed=seed, device=device, resident=resident)
        for resident in (True, False)
    )
    assert stays.images.images.is_cuda
    assert not copied.images.images.is_cuda
    for one, other in zip(stays.epoch(2), copied.epoch(2), strict=True):
        assert one.step == other.step
        assert all(a.is_cuda and torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_images_that_take_more_than_half_of_the_free_memory_stay_on_the_host(images, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (images.images.nbytes, 2**40))
    device = torch.device("cuda", 0)
    batches = ImageBatches(images, ImageTransform(8, (0,) * 3, (1,) * 3), 64, device=device)
    assert not batches.resident


def test_the_gpu_gives_the_processors_loss(tmp_path):
    # Shuffling and noise are drawn on the device, so only an unvaried single batch is comparable.
    settings = ("train.batch_size=2000", "data.shift=0", "data.noise=0")
    ours = loss_of(tmp_path / "gpu", *settings)
    assert ours == pytest.approx(
        loss_of(tmp_path / "cpu", *settings, runtime=make_runtime("cpu")), rel=ROUNDED
    )


@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [
        ("runtime.channels_last=true", ROUNDED),
        ("runtime.tf32=true", HALF),
        ("runtime.precision=bfloat16", HALF),
    ],
)
def test_options_stay_near_the_plain_loss(tmp_path, plain, setting, tolerance):
    assert loss_of(tmp_path / "run", setting) == pytest.approx(plain, rel=tolerance)


# The compiler's own: Inductor advises TF32, for which there is a choice of its own, remarks on small GPUs, forks
# beside threads and imports what is deprecated.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize(("tf32", "tolerance"), [("false", ROUNDED), ("true", HALF)])
def test_compiled_training_stays_near_the_plain_loss(tmp_path, plain, tf32, tolerance):
    settings = ("runtime.compile=true", f"runtime.tf32={tf32}")
    assert loss_of(tmp_path / "run", *settings) == pytest.approx(plain, rel=tolerance)


# PyTorch remarks that autograd's thread begins without a context.
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning")
def test_recorded_passes_give_the_plain_loss(tmp_path, plain):
    # With the last batch, which is smaller and runs as it is.
    recorded = loss_of(tmp_path / "run", "runtime.cuda_graphs=true")
    assert recorded == pytest.approx(plain, rel=SAME)


@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS:UserWarning")
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", ROUNDED), ("bfloat16", HALF)])
def test_recorded_passes_leave_maps_gradients_and_statistics(precision, tolerance):
    runtime = make_runtime("cuda", precision)
    torch.manual_seed(0)
    recorded = runtime.to_device(tiny(4))
    plain = runtime.to_device(tiny(4))
    plain.load_state_dict(recorded.state_dict())
    draw = torch.Generator("cuda").manual_seed(0)
    with (
        CompiledModel(recorded, "blocks.2", replay=True) as network,
        FeatureMaps(plain, "blocks.2", keep_gradients=True) as maps,
    ):
        for count in (6, 6, 3, 6):
            images = torch.randn(count, 3, 8, 8, device="cuda", generator=draw)
            state = torch.cuda.get_rng_state()
            found, expected = (
                outcome(model, images, take, runtime)
                for model, take in ((network, network.take), (plain, maps.take))
            )
            assert torch.equal(torch.cuda.get_rng_state(), state)
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    assert recorded.state_dict().keys() == plain.state_dict().keys()
    for one, other in zip(recorded.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def outcome(network, images, take, runtime):
    """Return logits, maps and gradients of a loss that uses both."""
    network.zero_grad()
    with runtime.matmul_precision():
        with runtime.autocast():
            logits = network(images).float()
        maps = take("blocks.2").float()
        (logits.square().mean() + maps.square().mean()).backward()
    grads = [p.grad.clone() for p in network.parameters()]
    return logits.detach().clone(), maps.detach().clone(), grads


@pytest.fixture
def never_waiting():
    """Make it an error that the host waits for the GPU."""
    with warnings.catch_warnings(action="ignore"):  # torch says that the mode is a prototype
        torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def test_images_are_varied_without_waiting_for_the_gpu(images, never_waiting):
    transform = ImageTransform(32, (0.5,) * 3, (0.2,) * 3, shift=3, noise=0.1, flip=True)
    draw = torch.Generator("cuda").manual_seed(0)
    assert transform(images.images.to("cuda", non_blocking=True), draw).is_cuda


def test_the_host_does_not_wait_between_the_backbones_of_a_stream(images, never_waiting):
    runtime = make_runtime("cuda")
    stored, transform = (
        images.images.to("cuda", non_blocking=True),
        ImageTransform(8, (0.5,) * 3, (0.2,) * 3),
    )
    backbones = [MapExtractor(runtime.to_device(tiny(7)), "blocks.2", runtime) for _ in range(3)]
    stream = RecomputedMaps(
        [backbones],
        lambda i: transform(stored[i.to("cuda", non_blocking=True)]),
        len(stored),
        block=64,
    )
    wanted = split_maps("map", num_images=len(stored), num_phases=3).train
    seen = sum(len(batch.maps) for batch in stream.batches(wanted, 50, torch.Generator()))
    assert seen == len(wanted)


def test_modules_are_measured_as_on_a_processor(tmp_path):
    config = with_settings(RunConfig(), SETTINGS)
    on_gpu, on_cpu = (
        train_classifier(config, tmp_path / device, runtime=make_runtime(device)).curve[0][
            "modules"
        ]
        for device in ("cuda", "cpu")
    )
    assert on_gpu.keys() == on_cpu.keys()
    assert {k: v.keys() for k, v in on_gpu.items()} == {k: v.keys() for k, v in on_cpu.items()}


def test_the_same_training_twice_gives_the_same_loss(tmp_path, plain):
    assert loss_of(tmp_path / "run") == pytest.approx(plain, rel=SAME)
