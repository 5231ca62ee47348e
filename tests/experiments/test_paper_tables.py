import pytest

RESNET, SHUFFLENET = "torchvision:resnet50", "torchvision:shufflenet_v2_x1_0"


@pytest.fixture
def paper():
    from experiments import paper_tables

    return paper_tables


def test_every_published_row_of_markers_has_ten_that_rise_and_end_by_its_last_epoch(paper):
    table = paper.paper_table("fmce_table_1")
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert len(rows) == 6
    for row in rows:
        assert sorted(set(row["markers"])) == row["markers"]
        assert len(row["markers"]) == 10
        assert row["markers"][-1] <= row["epochs"]


def test_a_row_of_markers_is_found_by_our_names(paper):
    (row,) = paper.published_markers("cifar10", SHUFFLENET)
    assert row["markers"] == [11, 20, 30, 45, 65, 83, 95, 101, 107, 113]
    assert (row["epochs"], row["mu_cqi"], row["top1_accuracy"]) == (150, 1e-4, 0.8734)


def test_a_data_set_has_the_published_rows_of_both_networks(paper):
    both = paper.published_markers("mnist")
    assert [row["model"] for row in both] == ["resnet50", "shufflenet_v2"]
    assert both[:1] == paper.published_markers("mnist", RESNET)


@pytest.mark.parametrize("data", ["fashion-mnist", "digits", "my.module:function"])
def test_a_data_set_that_the_fmce_paper_lacks_has_no_row(paper, data):
    assert paper.published_markers(data, SHUFFLENET) == []
    assert paper.published_markers(data) == []


def test_the_demo_network_has_no_published_row(paper):
    assert paper.published_markers("mnist", "tiny") == []
    assert paper.published_accuracies("mnist", "tiny") == {}


def test_accuracies_by_raf_leave_out_the_settings_that_were_not_tried(paper):
    found = paper.published_accuracies("cifar10", SHUFFLENET)
    assert list(found) == [1, 0.95, 0.9, 0.8, 0.75, 0.5, 0]
    assert found[0.8] == (89.29, 0.07)


def test_best_gains_are_those_of_the_seven_printed_rows(paper):
    # By hand: 99.41−99.28, 91.45−90.29, 93.85−93.31, 91.80−90.74, 99.51−99.35, 89.29−88.89, 90.93−90.59.
    assert [max(row) for row in paper.gains()] == [0.13, 1.16, 0.54, 1.06, 0.16, 0.40, 0.34]


def test_each_table_names_its_source(paper):
    for name in ("fmce_table_1", "fmce_table_2", "fmce_net_pp_table_1", "function_matching"):
        assert len(paper.paper_table(name)["source"]) > 20
