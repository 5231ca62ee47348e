"""Splits of feature maps share what their names say, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmce.feature_maps.splits import split_maps

sizes = {
    "num_images": st.integers(2, 40),
    "num_phases": st.integers(1, 6),
    "num_runs": st.integers(2, 4),
    "test_fraction": st.floats(0.01, 0.99),
    "seed": st.integers(0, 1000),
}


def parts(split, num_images, num_phases):
    """Return (run, phase, image) of both sides' maps."""
    return [
        np.stack([n // (num_images * num_phases), n // num_images % num_phases, n % num_images])
        for n in split
    ]


@given(kind=st.sampled_from(["map", "image", "run", "test"]), **sizes)
def test_sides_are_disjoint_ascending_and_cover_everything(kind, **arguments):
    split = split_maps(kind, **arguments)
    total = arguments["num_images"] * arguments["num_phases"] * arguments["num_runs"]
    assert np.array_equal(np.sort(np.concatenate(split)), np.arange(total))
    assert all(np.all(np.diff(side) > 0) for side in split)
    assert len(split.train) > 0
    assert (len(split.test) == 0) == (kind == "test")


@given(**sizes)
def test_split_map_holds_out_as_many_of_every_run_and_phase(**arguments):
    split = split_maps("map", **arguments)
    run, phase, _ = parts(split, arguments["num_images"], arguments["num_phases"])[1]
    counts = np.bincount(run * arguments["num_phases"] + phase)
    wanted = round(arguments["num_images"] * arguments["test_fraction"])
    assert set(counts) == {min(max(wanted, 1), arguments["num_images"] - 1)}
    assert len(counts) == arguments["num_runs"] * arguments["num_phases"]


@given(**sizes)
def test_split_image_shares_no_image_but_runs_and_phases(**arguments):
    train, test = parts(
        split_maps("image", **arguments), arguments["num_images"], arguments["num_phases"]
    )
    assert not set(train[2]) & set(test[2])
    assert set(train[0]) == set(test[0])
    assert set(train[1]) == set(test[1])


@given(**sizes)
def test_split_run_shares_no_run_but_images_and_phases(**arguments):
    train, test = parts(
        split_maps("run", **arguments), arguments["num_images"], arguments["num_phases"]
    )
    assert not set(train[0]) & set(test[0])
    assert set(train[2]) == set(test[2])
    assert set(train[1]) == set(test[1])


def test_split_map_shares_images_as_the_papers_does():
    split = split_maps("map", num_images=400, num_phases=10)
    train, test = parts(split, 400, 10)
    assert len(split.train) == 3 * len(split.test)
    assert len(set(train[2]) & set(test[2])) > 350


def test_the_seed_alone_decides():
    arguments = {"num_images": 50, "num_phases": 3}
    one, same, other = (split_maps("map", **arguments, seed=s).test for s in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("maps", {}, "one of map, image, run, test, got 'maps'"),
        ("map", {"test_fraction": 0}, "between 0 and 1, both excluded, got 0"),
        ("map", {"test_fraction": 1.0}, "between 0 and 1, both excluded"),
        ("run", {}, "splitting by runs needs at least 2 runs, got 1"),
        ("image", {"num_images": 1}, "splitting by images needs at least 2 images"),
        ("map", {"num_phases": 0}, "at least one image, phase and run"),
    ],
)
def test_what_cannot_be_split_is_refused(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_maps(kind, **{"num_images": 8, "num_phases": 2, **arguments})
