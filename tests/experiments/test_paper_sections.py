import importlib

import pytest

CONFIG = {"data": {"image_size": 32}, "train": {"epochs": 30}, "phases": {"threshold": 0.02}}


@pytest.fixture
def section():
    """Import a section by its name."""
    return lambda name: importlib.import_module(f"experiments.sections.{name}")


def row(result, data="cifar10", what="original task"):
    about = {"scale": "small", "data": data, "model": "tiny", "seed": 0, "what": what}
    return {**about, "config": CONFIG, "result": result}


def markers_row(markers, lr_fraction=0.1, distance=3.0):
    causes = {"smoothing_distance": distance, "lr_fraction": lr_fraction}
    return row({"markers": markers, "epochs": 30, "train_images": 10_000, **causes})


def net_row(split, accuracy, **more):
    metrics = {"accuracy": accuracy, "mae": 3.0}
    return row({"split": split, "held_out": metrics, "test_images": metrics, **more})


def schedule_row(schedule, markers, data="digits"):
    variants = [{"setting": "µ × 1", "markers": markers}]
    return row({"schedule": schedule, "variants": variants}, data, f"schedule {schedule}")


def test_markers_are_compared_with_the_published_ones_as_shares_of_the_last(section):
    published = [11, 19, 29, 42, 59, 80, 93, 98, 104, 109]
    resnet_alone = section("fmce_markers").shape_distances(markers_row(published))
    assert resnet_alone[0] == 0
    assert 0 < resnet_alone[1] < 0.02  # ShuffleNet v2's are nearly the same shares of 113
    even = section("fmce_markers").shape_distances(markers_row(list(range(10, 101, 10))))
    by_hand = sum(abs(k / 10 - e / 109) for k, e in enumerate(published, start=1)) / 10
    assert even[0] == pytest.approx(by_hand)


def test_a_low_learning_rate_at_convergence_is_counted(section):
    rows = [
        markers_row(list(range(3, 13)), lr_fraction=0.2),
        markers_row(list(range(3, 13)), lr_fraction=0.3),
    ]
    said = " ".join(section("fmce_markers").reading(rows))
    assert "In 1 of 2 of these runs" in said
    assert "Not run: the published rows" in said


def test_a_run_without_phases_is_in_the_table_and_not_in_the_verdict(section):
    lost = row({"markers": None, "epochs": 12, "train_images": 2000, "test_accuracy": 0.2})
    assert section("fmce_markers").marker_lines([lost])[-1][3] == "none"
    assert "ten phases" not in " ".join(section("fmce_markers").reading([lost]))


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ((0.95, 0.93), "Reproduces:"),
        ((0.95, 0.6), "Reproduces in part:"),
        ((0.9, 0.6), "Does not reproduce:"),
    ],
)
def test_fmce_nets_verdict_is_held_against_the_lowest_published_accuracy(
    section, accuracies, verdict
):
    rows = [net_row(split, a) for split, a in zip(("map", "image"), accuracies, strict=True)]
    (said,) = section("fmce_nets").reading(rows)
    assert verdict in said


def test_another_runs_maps_are_reported_apart(section):
    moved = {"accuracy": 0.12, "mae": 3.5}
    (said,) = section("fmce_nets").reading([net_row("run", 0.15, map_split_on_other_run=moved)])
    assert "Does not carry over to another run" in said
    (said,) = section("fmce_nets").reading([net_row("run", 0.4, map_split_on_other_run=moved)])
    assert "Partly carries over" in said


def test_the_size_of_the_network_is_an_excuse_for_small_rows_alone(section):
    rows = [net_row("map", 0.5), net_row("image", 0.5)]
    rows[1]["scale"] = "medium"
    assert "a small network" in section("fmce_nets").reading(rows)[0]
    rows[0]["scale"] = "paper"
    assert "a small network" not in section("fmce_nets").reading(rows)[0]


def test_a_training_without_its_ten_phases_is_part_of_the_verdict(section):
    lost = row({"markers": None, "epochs": 30}, "mnist")
    lost["config"] = CONFIG | {"phases": {"threshold": 0.02, "num_phases": 10}}
    (said, *_) = section("fmce_markers").reading([lost])
    assert "Does not reproduce: ten phases.** No ten phases at the µ used: MNIST, tiny" in said
    (said, *_) = section("fmce_markers").reading([markers_row(list(range(3, 13))), lost])
    assert "Reproduces in part" in said
    assert "No ten phases at the µ used: MNIST" in said


def test_both_ways_to_another_run_are_told(section):
    moved = {"accuracy": 0.12, "mae": 3.5}
    (said,) = section("fmce_nets").reading([net_row("run", 0.15, map_split_on_other_run=moved)])
    assert "15.00 %" in said
    assert "12.00 %" in said


def test_one_schedule_alone_decides_nothing(section):
    rows = [schedule_row("cosine", [3, 9])]
    assert section("sensitivity_curves").reading(rows) == []
    (said,) = section("sensitivity_curves").reading([*rows, schedule_row("constant", None)])
    assert "cosine E_K 9, constant no E_K" in said
    assert "The schedule decides when" in said


@pytest.mark.parametrize(("constant", "verdict"), [(21, "hardly moves E_K"), (23, "decides when")])
def test_the_schedule_is_blamed_only_where_another_one_moves_convergence(
    section, constant, verdict
):
    rows = [schedule_row("cosine", [3, 20]), schedule_row("constant", [3, constant])]
    rows += [schedule_row("cosine", [3, 9], "mnist"), schedule_row("step", [3, 9], "mnist")]
    (said,) = section("sensitivity_curves").reading(rows)
    assert f"The schedule {verdict}" in said


def test_settings_are_said_to_move_convergence_by_the_extremes_over_curves(section):
    def curve(used, changed):
        variants = [{"setting": "as used", "markers": [3, used]}]
        variants += [
            {"setting": f"B = {b}", "markers": m} for b, m in zip((1, 3), changed, strict=True)
        ]
        return row({"variants": variants}, what="settings")

    rows = [curve(20, ([2, 18], [3, 21])), curve(10, ([2, 15], None))]
    (said,) = section("sensitivity_curves").reading(rows)
    assert "B moves E_K by -2 to +5 epochs, and leaves none in 1 cases" in said


def test_what_cannot_be_reproduced_counts_the_published_settings(section):
    text = section("beyond").section([])[1]
    assert "25 of the 39 published settings" in text
    assert "90.74 %" in text
