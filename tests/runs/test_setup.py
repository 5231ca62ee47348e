"""A training's parts from its config alone."""

from dataclasses import replace

import torch

from fmce.config.run import RuntimeConfig
from fmce.engine.runtime import make_runtime
from fmce.runs.setup import TrainingSetup

CPU = make_runtime("cpu")


def test_a_network_of_a_given_size_needs_no_data(finished_run):
    setup = TrainingSetup(finished_run.config)
    model = setup.new_model(num_classes=3)
    assert model(torch.zeros(1, 3, 8, 8)).shape == (1, 3)
    assert setup.layer_of(model) == "blocks.2"
    assert setup.map_shape(model) == (16, 2, 2)
    assert "data" not in vars(setup)


def test_training_batches_repeat_by_seed_and_epoch(finished_run):
    setup = finished_run.setup

    def first(seed, epoch):
        return next(iter(setup.training_batches(CPU, seed).epoch(epoch)))

    own = next(iter(setup.training_batches(CPU).epoch(1)))
    assert own.images.shape == (128, 3, 8, 8)
    assert torch.equal(own.images, first(finished_run.config.train.seed, 1).images)
    for other in (first(7, 1), first(0, 2)):
        assert not torch.equal(own.image_index, other.image_index)


def test_the_trainings_memory_order_and_tf32_win_over_the_defaults(finished_run):
    how = RuntimeConfig(channels_last=True, precision="bfloat16")
    setup = TrainingSetup(replace(finished_run.config, runtime=how))
    runtime = setup.with_run_memory_format(replace(CPU, tf32=True))
    assert (runtime.channels_last, runtime.tf32, runtime.precision) == (True, True, "float32")
