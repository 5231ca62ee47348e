"""Cells of the generated tables, from rows of known numbers."""

import json

import pytest

from experiments.result_rows import Table, interval, record_result, signed, table, value
from experiments.tables import benchmarks, distillation, fmce, fmce_net_pp

CONFIG = {"data": {"image_size": 32}, "train": {"epochs": 30}, "phases": {"threshold": 0.02}}


def fmce_row(experiment, data="cifar10", **result):
    about = {"experiment": experiment, "data": data, "model": "tiny", "seed": 0}
    return {**about, "config": CONFIG, "result": result}


def matching_row(detection=False):
    means = {"supervised": 0.40, "distilled": 0.38, "function_matching": 0.43}
    agreement = {"validation": 0.8, "held_out": None}
    score = "ap" if detection else "miou"
    gain = {"mean_difference": 0.03, "interval_low": -0.01, "interval_high": 0.07, "n": 3}
    net = {"name": "pspnet:test_resnet", "options": {}}
    result = {
        "score_name": score,
        "teacher": {score: 0.44} | ({"boxes": 99} if detection else {}),
        "arms": [
            {"arm": arm, "mean": mean, "sd": 0.01, "agreement": agreement}
            for arm, mean in means.items()
        ],
        "gap_closed": None if detection else 0.75,
        "comparisons": [{"arm": "function_matching", **gain}],
        "images": {"labelled": 91, "unlabelled": 549, "validation": 101},
        "steps": 800,
    }
    config = {
        "teacher": {"name": "pspnet:test_resnet", "options": {"channels": 64}},
        "student": net,
        "data": {"height": 72, "width": 96},
        "teacher_steps": {"steps": 1000},
        "student_steps": {"batch_size": 16},
        "seeds": [1, 2, 3],
    }
    task = "detection" if detection else "segmentation"
    environment = {"torch": "2", "gpu": None, "cores": 2}
    about = {"experiment": f"distillation_{task}", "what": "function matching on CamVid"}
    return {
        **about,
        "date": "2026-01-01",
        "environment": environment,
        "config": config,
        "result": result,
    }


def line(made, first):
    return next(tuple(cells) for cells in made.lines if cells[0] == first)


def test_a_table_is_markdown_with_numbers_to_the_right():
    made = table([{"a": "x", "b": 0.5}], {"name": ("a", ""), "share": ("b", "%")})
    assert made.markdown() == "| name | share |\n| :-- | --: |\n| x | 50.00 % |"
    assert "not measured yet" in Table(("name", "share"), []).markdown()


def test_values_that_are_missing_are_dashes_and_no_minus_stands_before_a_zero():
    assert value(None, "a.b", ".3f") == "–"
    assert value({"a": {"b": 2}}, "a.b") == "2"
    assert signed(-0.00001) == "+0.00"


def test_pairs_without_spread_have_no_interval():
    equal = {"interval_low": None, "interval_high": None}
    assert interval({**equal, "n": 3}) == "all equal"
    assert interval({**equal, "n": 1}) == "one pair"
    assert interval(None) == "–"


def test_markers_are_compared_with_the_published_ones_as_shares_of_the_last():
    published = [11, 19, 29, 42, 59, 80, 93, 98, 104, 109]
    resnet, shufflenet = fmce.shape_distances(fmce_row("fmce_table1", markers=published))
    assert resnet == "0.00"
    assert 0 < float(shufflenet) < 0.02  # nearly the same shares of 113
    even = fmce.shape_distances(fmce_row("fmce_table1", markers=list(range(10, 101, 10))))
    by_hand = sum(abs(k / 10 - e / 109) for k, e in enumerate(published, start=1)) / 10
    assert float(even[0]) == pytest.approx(by_hand, abs=0.005)


def test_a_run_without_phases_is_in_the_table_of_markers_and_not_among_the_causes():
    lost = fmce_row("fmce_table1", markers=None, epochs=12, train_images=2000, test_accuracy=0.2)
    assert fmce.marker_table([lost]).lines[-1][3] == "none"
    assert fmce.cause_table([lost]).lines == []


def test_fmce_nets_of_the_same_run_and_of_another_are_shown_apart():
    metrics = dict.fromkeys(fmce.NET_COLUMNS, 0.5)
    moved = {**metrics, "accuracy": 0.12}
    row = fmce_row("fmce_table2", split="run", held_out=metrics, map_split_on_other_run=moved)
    own, other = (cells for cells in fmce.fmce_net_table([row]).lines if "here" in cells[0])
    assert own[:2] == ("here: CIFAR-10, tiny, 32 px, split run: held out", "0.5000")
    assert other[:2] == (
        "here: CIFAR-10, tiny, 32 px, split run: split map's net on the other run",
        "0.1200",
    )


def test_settings_move_convergence_by_the_extremes_over_curves():
    def curve(used, changed):
        others = [
            {"setting": f"B = {b}", "markers": m} for b, m in zip((1, 3), changed, strict=True)
        ]
        others += [{"setting": s, "markers": [used]} for s in ("smoothing none", "µ × 2")]
        variants = [{"setting": "as used", "markers": [3, used]}, *others]
        return {"experiment": "sensitivity", "what": "settings", "result": {"variants": variants}}

    rows = [curve(20, ([2, 18], [3, 21])), curve(10, ([2, 15], None))]
    assert line(fmce.move_table(rows), "B") == ("B", "-2", "+5", "1 of 4")


def test_an_arm_has_its_difference_and_the_published_accuracy_of_its_raf():
    gain = {"mean_difference": -0.02, "interval_low": -0.03, "interval_high": -0.01, "n": 2}
    result = {
        "seeds": [1, 2, 3],
        "arms": [
            {"arm": "baseline", "mean": 0.85, "sd": 0.01, "n": 3},
            {"arm": "raf0.9", "mean": 0.83, "sd": None, "n": 2},
        ],
        "comparisons": [{"arm": "raf0.9", **gain, "p_value": 0.02, "p_holm": 0.04}],
    }
    made = fmce_net_pp.arm_table(result, "fashion-mnist")
    assert line(made, "plain training")[1:5] == ("85.00 ± 1.00", "–", "–", "–")
    treated = line(made, "FMCE-Net++, RAF 0.9")
    assert treated[1:6] == ("83.00 (2 of 3 seeds)", "-2.00", "-3.00 … -1.00", "0.02", "0.04")
    assert treated[6:] == ("93.41 ± 0.05", "90.24 ± 0.05")


def test_a_step_is_timed_on_what_the_row_says():
    row = {
        "benchmark": "ral_step",
        "model": "torchvision:shufflenet_v2_x1_0",
        "precision": "float32",
        "clock": "wall",
        "batch_size": 8,
        "oracle_after_over_before": 0.9,
        "device": "cpu",
        "environment": {"gpu": "H100"},
        "forms": {"published": {"step_over_plain": 1.5, "operations_over_plain": 1.8}},
    }
    assert fmce_net_pp.where(row) == "shufflenet_v2_x1_0, CPU, batch 8"
    assert fmce_net_pp.where(row | {"device": "cuda"}) == "shufflenet_v2_x1_0, H100, batch 8"
    other = row | {"forms": {"every 4": {"step_over_plain": 1.1, "operations_over_plain": 1.2}}}
    made = fmce_net_pp.cost_table([row, other])
    assert line(made, "published") == ("published", "1.50", "1.80", "–", "–")
    assert line(made, "every 4") == ("every 4", "–", "–", "1.10", "1.20")


def test_function_matching_stands_beside_the_slides():
    made = distillation.matching_scores([matching_row()])
    assert made.header == ("", "slides: BDD100K, mIoU", "CamVid, mIoU")
    assert line(made, "compact, function matching")[1:] == ("64.74", "43.00 ± 1.00")
    # (64.74 − 61.48) / (64.83 − 61.48)
    assert line(made, "share of the gap closed")[1:] == ("0.97", "0.75")
    gain = "function matching − supervised, pp (95 % interval)"
    assert line(made, gain)[1:] == ("+3.26", "+3.00 (-1.00 … +7.00)")
    assert line(distillation.matching_setups([matching_row()]), "teacher")[1] == (
        "`pspnet:test_resnet` (channels 64)"
    )


def test_detection_has_tables_of_its_own():
    rows = [matching_row(), matching_row(detection=True)]
    made = distillation.detection_scores(rows)
    assert made.header == ("", "slides: BDD100K, AP", "CamVid, AP")
    assert line(made, "large (teacher), supervised")[1:] == ("31.4", "44.00")
    assert line(made, "share of the gap closed")[1:] == ("0.89", "–")
    assert line(distillation.detection_setups(rows), "boxes in them")[1] == "99"
    assert "boxes in them" not in dict(distillation.matching_setups(rows).lines)
    agreement = distillation.detection_agreement(rows)
    assert line(agreement, "compact, supervised")[1:] == ("80.00 %", "–")


def test_an_experiment_without_all_arms_has_no_column():
    row = matching_row()
    row["result"]["arms"] = row["result"]["arms"][2:]
    assert distillation.experiments([row], "matching") == []


def test_memory_of_a_gpu_is_a_line_of_its_own():
    row = {"benchmark": "map_memory", "model": "tiny", "backbones": 3, "device": "cuda"}
    row |= {"images": [10_000, 50_000], "stream_peak_rss_mb": [3000, 3010]}
    made = benchmarks.memory_table([row | {"stream_peak_gpu_mb": [500, 900]}])
    assert made.header[2:] == ("10,000 images", "50,000 images")
    assert [cells[2:] for cells in made.lines] == [("3000 MB", "3010 MB"), ("500 MB", "900 MB")]


def test_the_estimate_of_sixteen_million_frames_follows_from_one_cores_speeds():
    row = {
        "benchmark": "frame_loading",
        "slides_multiply_adds": 150e9,
        "decoded_per_second_and_core": 100.0,
        "views_per_second_and_core": 25.0,
        "packed_per_second": 10.0,
        "bytes_per_frame": 1e5,
    }
    one, _, many = (dict(zip(benchmarks.estimate_table([row]).header, cells, strict=True))
                    for cells in benchmarks.estimate_table([row]).lines)  # fmt: skip
    assert one["frames per second"] == "500"  # 150e12 / (2 · 150e9)
    assert one["one pass"] == "8.9 h"  # 16e6 / 500 / 3600
    assert one["packing"] == "27.8 h"  # 16e6 / (10 · 16) / 3600
    assert one["shards"] == "1.6 TB"
    assert (one["cores that decode"], one["cores that decode and draw views"]) == ("5", "25")
    assert (many["GPUs"], many["frames per second"]) == ("64", "32,000")


def test_a_result_measured_anew_takes_the_place_of_its_row(tmp_path):
    path = tmp_path / "results" / "rows.jsonl"
    for what, number in (("a", 1), ("b", 2), ("a", 3)):
        record_result(path, {"what": what, "value": number}, key=("what",))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(row["what"], row["value"]) for row in rows] == [("a", 3), ("b", 2)]
    assert all(row["environment"]["torch"] and row["date"] for row in rows)
