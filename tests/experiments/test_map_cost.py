import importlib

import pytest


@pytest.fixture
def section():
    return importlib.import_module("experiments.sections.map_cost")


def memory_row(**peaks):
    about = {"benchmark": "map_memory", "model": "tiny", "backbones": 3, "device": "cuda"}
    return {**about, "images": [10_000, 50_000], **peaks}


def test_memory_of_streaming_is_judged_where_the_maps_are(section):
    (said,) = section.reading([memory_row(stream_peak_rss_mb=[3000, 3010])])
    assert "is flat" in said
    grown = memory_row(stream_peak_rss_mb=[3000, 3010], stream_peak_gpu_mb=[500, 900])
    (said,) = section.reading([grown])
    assert "**grows**" in said
    assert "500 MB for 10,000 images, 900 MB for 50,000" in said


def test_stored_maps_alone_say_nothing_of_streaming(section):
    row = memory_row(stored_peak_rss_mb=[500, 510])
    assert section.reading([row]) == []
    assert "| stored | 500 MB | 510 MB |" in "\n".join(section.section([row]))
