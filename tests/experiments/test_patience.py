"""The study of function matching on real data: its experiments, its tables, its figures."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments import patience, patience_figures
from experiments.tables import patience as tables
from fmce.config.distillation import DistillationDataConfig
from fmce.data.classification.classification import load_classification
from fmce.distillation.data.classification import classification_data

SCORES = {"supervised": 0.70, "distilled": 0.71, "function_matching": 0.78}


def row(seed, what="as it is", part="lengths", multiple=4, unlabelled=5000, **scores):
    arms = {
        arm: {"score": score + 0.001 * seed, "validation": score, "held_out": score}
        for arm, score in (scores or SCORES).items()
    }
    images = {"labelled": 500, "unlabelled": unlabelled, "held_out": 9, "validation": 99}
    result = {"teacher": 0.80, "arms": arms, "images": images, "steps": 125 * multiple}
    about = {"experiment": "patience", "case": "fashion-mnist", "part": part, "what": what}
    return {**about, "multiple": multiple, "seed": seed, "result": result}


ROWS = [
    *(row(seed, multiple=times) for times in (4, 1) for seed in (2, 1)),
    *(row(s, "500 unlabelled images", "deciders", 4, 500, function_matching=0.75) for s in (1, 2)),
    *(row(s, "1000 labels", "labels", supervised=0.76) for s in (1, 2)),
]


def test_lengths_are_in_order_with_paired_differences_and_the_share_of_the_gap():
    header, lines = tables.length_table(ROWS)
    assert [line[1] for line in lines] == ["1×: 125", "4×: 500"]
    cells = dict(zip(header, lines[1], strict=True))
    assert cells["function matching"] == "78.15 ± 0.07"
    assert cells["matching − supervised, pp (95 % interval)"] == "+8.00 (all equal)"
    assert cells["gap closed"] == "0.81"  # 8 of the 9.85 points from 70.15 to 80


def test_a_decider_is_paired_with_the_same_steps_and_the_supervised_student_of_its_seeds():
    ((what, unlabelled, seeds, score, gain, gap, _),) = tables.decider_table(ROWS).lines
    assert (what, unlabelled, seeds) == ("500 unlabelled images", "500", "2")
    assert (score, gain, gap) == ("75.15 ± 0.07", "-3.00 (all equal)", "0.51")


def test_more_labels_are_compared_with_the_matched_student_of_few():
    ((_, _, supervised, gain),) = tables.label_table(ROWS).lines
    assert (supervised, gain) == ("76.15 ± 0.07", "-2.00 (all equal)")


def test_a_better_teacher_stands_below_the_one_as_it_is_with_the_same_supervised_students():
    better = [row(s, "all labels", "teachers", function_matching=0.79) for s in (1, 2)]
    for one in better:
        one["result"]["teacher"] = 0.90
    header, lines = tables.teacher_table([*ROWS, *better])
    first, second = (dict(zip(header, line, strict=True)) for line in lines)
    assert (first["teacher"], first["its score"], first["gap closed"]) == (
        "as it is",
        "80.00",
        "0.81",
    )
    assert (second["teacher"], second["its score"]) == ("all labels", "90.00")
    assert second["supervised"] == first["supervised"] == "70.15 ± 0.07"
    gain = "− matched as it is, pp (95 % interval)"
    assert (first[gain], second[gain]) == ("–", "+1.00 (all equal)")
    assert second["gap closed"] == "0.45"  # 9 of the 19.85 points from 70.15 to 90


def test_one_seed_has_a_difference_and_no_interval():
    one = [found for found in ROWS if found["seed"] == 1]
    assert tables.length_table(one).lines[0][-2:] == ("+8.00 (one pair)", "0.81")


def test_figures_are_drawn_of_what_has_rows(tmp_path):
    results = tmp_path / "rows.jsonl"
    for rows, names in (
        (ROWS[:4], ["agreement", "lengths"]),
        (ROWS, ["agreement", "lengths", "pool"]),
    ):
        results.write_text("".join(f"{json.dumps(found)}\n" for found in rows))
        patience_figures.main(["--results", str(results), "--out", str(tmp_path)])
        assert sorted(p.stem.removeprefix("patience-") for p in tmp_path.glob("*.svg")) == names


def test_the_share_of_the_gap_grows_with_the_pool():
    shares = [(size, round(gap, 2)) for size, gap in patience_figures.pools(ROWS)]
    assert shares == [(1000, 0.51), (5500, 0.81)]


def test_a_teacher_is_one_whatever_its_students_settings():
    case = patience.CASES[patience.CHEAPEST](Path(), Path())
    faster = patience.student_steps(learning_rate=1.0, mixup=True)(case)
    assert faster != case
    assert patience.alone(faster) == patience.alone(case)


def test_a_foreign_pool_leaves_labelled_and_held_out_images_alone(monkeypatch):
    digits = load_classification("digits")
    foreign = torch.full((7, 3, 32, 32), 77, dtype=torch.uint8)
    mixed = patience.with_pool(digits, foreign, labelled=100, held_out=50)
    monkeypatch.setattr(
        "tests.experiments.test_patience.mixed_digits", lambda: mixed, raising=False
    )
    config = DistillationDataConfig(
        name="digits", height=8, width=8, labelled=100, unlabelled=None, held_out=50
    )
    before = classification_data(config)
    after = classification_data(
        replace(config, name="tests.experiments.test_patience:mixed_digits")
    )
    for name in ("labelled", "held_out", "validation"):
        assert torch.equal(getattr(after, name).images, getattr(before, name).images)
    assert (after.unlabelled.images == 77).all()
    assert len(after.unlabelled) == len(before.unlabelled)


def test_the_broken_view_is_for_training_alone():
    student = patience.other_crop(10, width=2)
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(student.eval()(images), super(type(student), student).forward(images))
    assert not torch.equal(patience.other_window(images), images)
    assert patience.other_window(images).shape == images.shape


def test_every_experiment_has_a_config(tmp_path):
    (tmp_path / "driving-clips").mkdir()
    for experiment in (e for part in patience.PARTS.values() for e in part):
        config = experiment.change(patience.CASES[experiment.case](tmp_path, tmp_path))
        assert config.student_steps.steps % patience.INTERVALS == 0
        if experiment.teacher:
            case = patience.CASES[experiment.case](tmp_path, tmp_path)
            assert patience.alone(experiment.teacher(case)) != patience.alone(case)


def test_the_plan_names_what_is_missing_and_trains_nothing(tmp_path, capsys):
    results = tmp_path / "rows.jsonl"
    options = ["--out", str(tmp_path / "runs"), "--results", str(results), "--plan", "--small"]
    patience.main(options)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(
        experiment.case == patience.CHEAPEST and (part != "lengths" or experiment.multiple <= 4)
        for part, experiments in patience.PARTS.items()
        for experiment in experiments
    )
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit, match="2"):
        patience.main(["imagenet"])


def test_narrow_cars_and_other_objects_become_regions_to_ignore(tmp_path):
    source = tmp_path / "kitti101"
    (source / "image_2").mkdir(parents=True)
    (source / "label_2").mkdir()
    box = "0.00 0 0 {} 100 {} 150 1 1 1 1 1 1 0"
    lines = [
        ("Car", 0, patience.CAR_WIDTH),
        ("Van", 5, 500),
        ("Car", 0, patience.CAR_WIDTH - 1),
        ("Truck", 0, 400),
    ]
    text = "".join(f"{name} {box.format(left, right)}\n" for name, left, right in lines)
    (source / "label_2" / "000000.txt").write_text(text)
    for _ in range(2):
        found = patience.wide_cars(source, tmp_path / "cars")
    kept = (found / "label_2" / "000000.txt").read_text().splitlines()
    assert [line.split()[0] for line in kept] == ["Car", "Car", "DontCare", "DontCare"]
    assert [line.split()[1:] for line in kept] == [line.split()[1:] for line in text.splitlines()]
    assert (found / "image_2").resolve() == source / "image_2"
