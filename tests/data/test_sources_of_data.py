"""LengthBucketing over what people keep their data in."""

import numpy as np
import pytest

from keras_seqx import LengthBucketing
from tests.data.test_batches import sequences

LENGTHS = [3, 1, 4, 1, 5]
X = sequences(LENGTHS, 0, kind="int64")
LABELS = [0, 1, 1, 0, 1]


def collected(data):
    """Sequences and labels by their number."""
    found = {}
    for batch in data:
        inputs, labels = batch
        for row, length, label in zip(inputs["inputs"], inputs["lengths"], labels, strict=True):
            found[int(row[0]) - 1] = (row[:length].tolist(), int(label))
    return [found[number] for number in sorted(found)]


def of_lists():
    return [row.tolist() for row in X], LABELS


def of_flat_values():
    return (np.concatenate(X), np.array(LENGTHS)), np.array(LABELS)


def of_memmap(tmp_path):
    np.concatenate(X).tofile(tmp_path / "values")
    return (np.memmap(tmp_path / "values", "int64", "r"), np.array(LENGTHS)), LABELS


def of_tensorflow():
    tf = pytest.importorskip("tensorflow")
    return tf.ragged.constant([row.tolist() for row in X], dtype=tf.int64), tf.constant(LABELS)


def of_pyarrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"x": [row.tolist() for row in X], "y": LABELS})
    return table["x"], table["y"]


def of_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": X, "y": LABELS})
    return frame["x"], frame["y"]


def of_datasets():
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"x": [row.tolist() for row in X], "y": LABELS})
    return data["x"], data["y"]


@pytest.mark.parametrize(
    "source", [of_lists, of_flat_values, of_memmap, of_tensorflow, of_pyarrow, of_pandas, of_datasets]
)
def test_the_same_batches_whatever_they_come_from(source, tmp_path):
    x, y = source(tmp_path) if source is of_memmap else source()
    data = LengthBucketing(x, y, batch_size=2, buckets=2, seed=0, lengths_as_input="lengths")
    assert collected(data) == [(row.tolist(), label) for row, label in zip(X, LABELS, strict=True)]
