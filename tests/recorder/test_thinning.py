import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fmce import PhaseConfig, find_phases
from fmce.recorder.thinning import PER_PHASE, epochs_to_drop, log_progress, loss_positions


def kept_checkpoints(losses, config):
    """Thin after every epoch, as the recorder does; return the kept epochs."""
    kept = []
    for epoch in range(1, len(losses) + 1):
        kept.append(epoch)
        places = loss_positions(losses[:epoch], config)
        gone = epochs_to_drop({e: places[e - 1] for e in kept}, PER_PHASE * config.num_phases)
        kept = [e for e in kept if e not in gone]
        assert len(kept) <= PER_PHASE * config.num_phases
        assert kept[-1] == epoch
    return kept


@st.composite
def curves(draw):
    """Falling curves of many shapes, with noise."""
    epochs = draw(st.integers(30, 160))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scale = draw(st.floats(1.0, 120.0))
    shape = draw(st.sampled_from(["exponential", "power", "steps", "jump"]))
    time = np.arange(epochs)
    curve = {
        "exponential": np.exp(-time / scale),
        "power": (1 + time / scale) ** -draw(st.floats(0.3, 3.0)),
        "steps": 10.0 ** -np.floor(time / scale).clip(max=6),
        "jump": np.where(time < 2, 1.0, 1e-3 * np.exp(-time / scale)),
    }[shape]
    noise = draw(st.sampled_from([0.0, 0.01, 0.1]))
    return (2.3 * curve + 1e-4) * np.exp(noise * rng.normal(size=epochs))


@settings(max_examples=30, deadline=None)
@given(curves(), st.integers(2, 10))
def test_every_marker_has_a_checkpoint_within_a_quarter_of_a_phase(losses, num_phases):
    """The bound of the docstring: P is the progress of E_K, and the markers lie at multiples of P/K."""
    # A later highest loss would move E_0, from which all progress is measured, after checkpoints have gone.
    assume(losses.argmax() < PER_PHASE * num_phases)
    config = PhaseConfig(num_phases=num_phases, relative_threshold=1e-3, smoothing="ema")
    kept = kept_checkpoints(losses.tolist(), config)
    progress, reached = log_progress(losses.tolist(), config)
    places = loss_positions(losses.tolist(), config)
    # Every epoch above three quarters of the first phase is near a kept one, on the line of the thinning.
    distances = np.abs(places[:, None] - places[np.array(kept) - 1][None, :]).min(axis=1)
    largest = max(log_progress(losses[:n].tolist(), config)[1] for n in range(1, len(losses) + 1))
    assert distances.max() <= largest / (PER_PHASE * num_phases) + 1e-12
    try:
        markers = find_phases(losses, config).markers
    except ValueError:
        return
    if largest > reached * (1 + 1e-9):
        return  # the progress fell again, so its phases are narrower than those it was thinned for
    for level, marker in enumerate(markers, start=1):
        if progress[marker - 1] < level * reached / num_phases * (1 - 1e-9):
            continue  # pushed forward only so that a later phase keeps an epoch
        near = np.abs(
            np.minimum(progress[np.array(kept) - 1], reached) - min(progress[marker - 1], reached)
        )
        assert near.min() <= reached / (PER_PHASE * num_phases) * (1 + 1e-9)


def test_a_training_of_3000_epochs_keeps_as_many_as_one_of_100():
    losses = (2.3 * np.exp(-np.arange(3000) / 300) + 0.01).tolist()
    places = loss_positions(losses, PhaseConfig(num_phases=3, relative_threshold=1e-3))
    gone = epochs_to_drop({e: places[e - 1] for e in range(1, 3001)}, 12)
    assert len(gone) == 3000 - 12


def test_ends_and_newest_stay_whatever_the_order():
    assert epochs_to_drop({1: 5.0, 2: 0.0, 3: 2.0, 4: 2.1, 5: 2.05}, 4) in ([3], [4])
    assert epochs_to_drop({}, 4) == []
    assert epochs_to_drop({1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0}, 3) == [2]


@pytest.mark.parametrize("losses", [[], [0.0, 0.0], [float("nan"), 1.0, float("nan")], [-1.0, 1.0]])
def test_curves_without_a_log_scale_still_have_places(losses):
    assert np.isfinite(loss_positions(losses, PhaseConfig())).all()
