"""The input pipeline's benchmark measures the readers that it names."""

import pytest

from benchmarks import input_pipeline
from headjax import data
from headjax.io.images import encode_png


def test_rates_are_of_every_reader_read_in_every_way(small_set, tmp_path, monkeypatch):
    one = {"workers": 1, "prefetch": 2}  # Each process takes its time to start.
    monkeypatch.setitem(input_pipeline.WAYS, "workers=2", one)
    source = data.load_split(small_set, "train", cache=False)
    path = tmp_path / "images.zip"
    input_pipeline.pack(
        path, source, lambda record: encode_png(record["image"]), ending="png", labels=True
    )
    readers = {
        "array_record": (source, input_pipeline.FIELDS, 4),
        "zip": (data.Eg3dDataset(path), ("image", "camera"), 4),
    }
    rows = input_pipeline.measure(readers, runs=1, seconds=0.02)
    assert list(rows) == ["array_record", "zip"]
    for row in rows.values():
        assert list(row) == ["threads=1", "threads=2", "workers=2"]
        for found in row.values():
            assert found["examples_per_second"] > 0 and found["cpu_us_per_example"] >= 0


@pytest.mark.parametrize(("zip_rate", "holds"), [(400.0, True), (399.0, False)])
def test_the_bar_is_four_times_the_need_for_each_reader_at_its_best(zip_rate, holds):
    rates = {"array_record": (100.0, 900.0), "zip": (zip_rate, 1.0), "zip_png16": (500.0, 500.0)}
    rows = {
        name: {f"threads={n}": {"examples_per_second": rate} for n, rate in enumerate(found, 1)}
        for name, found in rates.items()
    }
    found = input_pipeline.ratios(rows, 100.0)
    assert found["times_over"]["array_record"] == 9.0 and found["holds"] is holds


def test_one_need_or_two_are_understood():
    assert input_pipeline.needs("375") == [375.0] and input_pipeline.needs("375,160") == [375, 160]
    for text in ("0", "1,2,3", "many"):
        with pytest.raises(ValueError, match=text):
            input_pipeline.needs(text)
