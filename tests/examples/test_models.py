"""The models of the examples: padding changes nothing, and a forecast is what the model predicts for each series."""

import csv
import pathlib
import sys

import numpy as np
import pytest

from keras_seqx import audit_masking

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "examples"))

import complete_series
import label_steps
import pronounce_words
import watch_videos
from series_files import SeriesFile

LENGTHS = np.array([5, 3, 2], "int32")


def label(rng):
    x = {"inputs": rng.normal(size=(3, 5, len(label_steps.CHANNELS))).astype("float32"), "lengths": LENGTHS}
    return label_steps.build_model(context=True), x, rng.integers(0, len(label_steps.CLASSES), (3, 5))


def watch(rng):
    frames = rng.normal(size=(3, 5, watch_videos.SIZE, watch_videos.SIZE, 1)).astype("float32")
    x = {"inputs": frames, "lengths": LENGTHS}
    return watch_videos.video_model(True, steps=1), x, rng.integers(0, len(watch_videos.HEADINGS), (3, 5))


def pronounce(rng):
    model, _, _ = pronounce_words.build(pronounce_words.CONFIGS["tiny"], seed=0)
    model.compile("adam", pronounce_words.SmoothedCrossentropy(reduction="mean_with_sample_weight"))
    ids = [rng.integers(3, 20, (3, 5)) * (np.arange(5) < LENGTHS[:, None]) for _ in range(3)]
    return model, {"letters": ids[0], "phones": ids[1]}, ids[2]


@pytest.mark.parametrize("make", [label, watch, pronounce])
def test_padding_changes_nothing(make):
    model, x, y = make(np.random.default_rng(0))
    audit_masking(model, x, y).raise_on_leak()


def test_forecast_of_each_series(tmp_path):
    """Against the prediction for each series alone, from as many last steps as the model has learned to read."""
    rng = np.random.default_rng(0)
    series = [rng.normal(1000, 50, (steps, 2)).astype("float32") for steps in (12, 5, 8)]
    pairs = [(values[:4], values[4:]) for values in series]
    windows = complete_series.pad_right(pairs, 8)
    data = complete_series.describe("Series", ["a", "b"], 3, windows, windows, windows)
    _, model = complete_series.build_models(data, units=2)

    complete_series.forecast(data, SeriesFile(["a", "b"], series), model, tmp_path / "forecast.csv")
    with (tmp_path / "forecast.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["series", "step", "a", "b"]
    assert [row[:2] for row in rows] == [[str(k + 1), str(len(series[k]) + s)] for k in range(3) for s in (1, 2, 3)]
    for k, values in enumerate(series):
        alone = model.predict({"context": values[None, -4:], "lengths": np.array([4])}, verbose=0)[0]
        np.testing.assert_allclose([list(map(float, row[2:])) for row in rows[3 * k : 3 * k + 3]], alone, rtol=1e-5)
