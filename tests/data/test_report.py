"""The report: numbers against a count by hand, the table, and the picture."""

import numpy as np
import pytest

from keras_seqx import LengthBucketing
from tests.data.test_batches import sequences


@pytest.mark.parametrize("remainder", ["keep", "drop", "fill"])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_numbers_are_those_of_the_batches(remainder, shards):
    lengths = np.random.default_rng(0).integers(1, 40, 200)
    data = [
        LengthBucketing(
            sequences(lengths, 0),
            np.arange(200),
            batch_size=8,
            buckets=4,
            remainder=remainder,
            overlong="drop",
            max_length=35,
            seed=1,
            num_shards=shards,
            shard_index=shard,
        )
        for shard in range(shards)
    ]
    report = data[0].report()
    total = sum(np.prod(batch[0].shape) for shard in data for batch in shard)
    rows = [
        row
        for shard in data
        for batch in shard
        for row, weight in zip(batch[1], batch[2] if len(batch) > 2 else np.ones(len(batch[1])), strict=True)
        if weight
    ]
    valid = lengths[rows].sum()
    assert report.efficiency == pytest.approx(valid / total)
    assert (report.valid_steps, report.padded_steps) == (valid, total - valid)
    assert report.shapes == sorted({batch[0].shape for batch in data[0]})
    assert (report.sequences, report.dropped) == (len(rows), 200 - len(rows))
    assert report.overlong == (lengths > 35).sum()
    assert report.duplicated == sum(len(batch[1]) for shard in data for batch in shard) - len(rows)
    assert report.batches == len(data[0])
    assert sum(row.sequences for row in report.buckets) == len(rows)
    assert report.efficiency_of_padding_to_longest == pytest.approx(valid / (len(rows) * lengths[lengths <= 35].max()))
    padded = np.array([batch[0].shape[1] for batch in data[0]])
    assert report.correlation == pytest.approx(np.corrcoef(padded[:-1], padded[1:])[0, 1])


def test_the_table():
    report = LengthBucketing(sequences([2, 3, 3, 10], 0), buckets=2, batch_size=2, seed=0).report()
    lines = str(report).split("\n")
    assert lines[0].split() == ["padded", "to", "sequences", "batches", "efficiency"]
    assert lines[2].split() == ["3", "3", "2", "0.889"]
    assert lines[3].split() == ["10", "1", "1", "1.000"]
    assert "padding to the longest: efficiency 0.450" in str(report)


@pytest.mark.parametrize("two", [False, True])
def test_the_picture_shows_every_boundary(two):
    import matplotlib

    matplotlib.use("Agg")
    lengths = np.random.default_rng(0).integers(1, 300, 400)
    x = {"a": sequences(lengths, 0), "b": sequences(lengths[::-1], 0)} if two else sequences(lengths, 0)
    data = LengthBucketing(x, buckets=5, seed=0)
    ax = data.report().plot()
    if two:
        corners = {(line.get_xdata()[1] - 0.5, line.get_ydata()[1] - 0.5) for line in ax.lines}
    else:
        corners = {line.get_xdata()[0] - 0.5 for line in ax.lines}
    assert corners == set(data.boundaries)
    assert "5 buckets" in ax.get_title()
    matplotlib.pyplot.close(ax.figure)
