"""The models of the examples: padding changes nothing, and a forecast is what the model predicts for each series."""

import csv
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import complete_series
import label_steps
import pronounce_words
import watch_videos
from series_files import SeriesFile

ROWS, STEPS, PADDING = 2, 3, 2


def label():
    return label_steps.build_model(context=True), (len(label_steps.CHANNELS),), len(label_steps.CLASSES)


def watch():
    size = watch_videos.SIZE
    return watch_videos.video_model(True, steps=1), (size, size, 1), len(watch_videos.HEADINGS)


@pytest.mark.parametrize("make", [label, watch])
def test_padding_changes_no_loss_and_no_metric(make):
    """Padding of large numbers, with labels that are wrong."""
    rng = np.random.default_rng(0)
    model, shape, classes = make()
    frames = rng.normal(size=(ROWS, STEPS + PADDING, *shape)).astype("float32")
    frames[:, STEPS:] = 100
    labels = rng.integers(0, classes, (ROWS, STEPS + PADDING)).astype("int32")
    lengths = np.full(ROWS, STEPS, "int32")
    short, long = (
        model.evaluate({"inputs": frames[:, :t], "lengths": lengths}, labels[:, :t], verbose=0)
        for t in (STEPS, STEPS + PADDING)
    )
    np.testing.assert_allclose(long, short, rtol=1e-5)


def test_padding_changes_no_pronunciation():
    """Words with padding, without it, and the loss of both."""
    rng = np.random.default_rng(0)
    model, _, _ = pronounce_words.build(pronounce_words.CONFIGS["tiny"], seed=0)
    model.compile(loss=pronounce_words.SmoothedCrossentropy(reduction="mean_with_sample_weight"))
    ids = [np.pad(rng.integers(3, 20, (ROWS, STEPS)), ((0, 0), (0, PADDING))) for _ in range(3)]
    short, long = (
        model.evaluate({"letters": ids[0][:, :t], "phones": ids[1][:, :t]}, ids[2][:, :t], verbose=0)
        for t in (STEPS, STEPS + PADDING)
    )
    np.testing.assert_allclose(long, short, rtol=1e-5)


def test_forecast_of_each_series(tmp_path):
    """Against the prediction for each series alone, from as many last steps as the model has learned to read."""
    rng = np.random.default_rng(0)
    series = [rng.normal(1000, 50, (steps, 2)).astype("float32") for steps in (12, 5, 8)]
    pairs = [(values[:4], values[4:]) for values in series]
    windows = complete_series.pad_right(pairs, 8)
    data = complete_series.describe("Series", ["a", "b"], 8, windows, windows, windows)
    _, model = complete_series.build_models(data, units=2)

    complete_series.forecast(data, SeriesFile(["a", "b"], series), model, tmp_path / "forecast.csv")
    with (tmp_path / "forecast.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["series", "step", "a", "b"]
    assert [row[:2] for row in rows] == [[str(k + 1), str(len(series[k]) + s)] for k in range(3) for s in range(1, 9)]
    for k, values in enumerate(series):
        alone = model.predict({"context": values[None, -4:], "lengths": np.array([4])}, verbose=0)[0]
        np.testing.assert_allclose([list(map(float, row[2:])) for row in rows[8 * k : 8 * k + 8]], alone, rtol=1e-5)
