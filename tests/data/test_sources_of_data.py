"""LengthBucketing over what people keep their data in."""

import numpy as np
import pytest

from keras_seqx import LengthBucketing, RaggedArray
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


def of_samples():
    return zip(*zip(X, LABELS, strict=True), strict=True)


def of_list_samples():
    return zip(*((row.tolist(), np.int64(label)) for row, label in zip(X, LABELS, strict=True)), strict=True)


def of_tensor_samples():
    torch = pytest.importorskip("torch")
    return tuple(map(torch.from_numpy, X)), tuple(map(torch.tensor, LABELS))


def of_sizes():
    return [row.astype(kind) for row, kind in zip(X, ["int32", "int64"] * 3, strict=False)], LABELS


def of_listed_lengths():
    return (np.concatenate(X), LENGTHS), LABELS


def of_tensor_values():
    torch = pytest.importorskip("torch")
    return (torch.from_numpy(np.concatenate(X)), torch.tensor(LENGTHS)), torch.tensor(LABELS)


def of_h5py(tmp_path):
    h5py = pytest.importorskip("h5py")
    file = h5py.File(tmp_path / "data.h5", "w")
    for name, values in (("values", np.concatenate(X)), ("lengths", LENGTHS), ("labels", LABELS)):
        file[name] = values
    return (file["values"], file["lengths"]), file["labels"]


def of_packed():
    torch = pytest.importorskip("torch")
    rows = [torch.from_numpy(row) for row in X]
    return torch.nn.utils.rnn.pack_sequence(rows, enforce_sorted=False), LABELS


@pytest.mark.parametrize(
    "source",
    [
        of_lists,
        of_flat_values,
        of_memmap,
        of_tensorflow,
        of_pyarrow,
        of_pandas,
        of_datasets,
        of_samples,
        of_list_samples,
        of_tensor_samples,
        of_sizes,
        of_listed_lengths,
        of_tensor_values,
        of_h5py,
        of_packed,
    ],
)
def test_the_same_batches_whatever_they_come_from(source, tmp_path):
    x, y = source(tmp_path) if source in (of_memmap, of_h5py) else source()
    data = LengthBucketing(x, y, batch_size=2, buckets=2, seed=0, lengths_as_input="lengths")
    assert collected(data) == [(row.tolist(), label) for row, label in zip(X, LABELS, strict=True)]


def frames_of(data, part=lambda x: x):
    """The sequences (T, D) of the first part of `x`, in their order."""
    found = {}
    for inputs, *_ in data:
        for row, length in zip(part(inputs), inputs["lengths"], strict=True):
            found[int(row[0, 0]) - 1] = row[:length]
    return [found[number] for number in sorted(found)]


FRAMES = sequences(LENGTHS, 0, (2,))


def assert_frames(found, expected=FRAMES):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_floats_of_two_sizes_become_the_larger():
    rows = [row.astype(kind) for row, kind in zip(FRAMES, ["float32", "float64"] * 3, strict=False)]
    rows[1] += 1 / 3
    assert RaggedArray(rows).dtype == np.float64
    assert_frames(frames_of(LengthBucketing(rows, lengths_as_input="lengths"), lambda x: x["inputs"]), [
        row.astype("float32") for row in rows
    ])  # fmt: skip


def test_a_ragged_tensor_whose_inner_axis_has_one_width():
    tf = pytest.importorskip("tensorflow")
    nested = tf.ragged.constant([row.tolist() for row in FRAMES], dtype=tf.float32)
    assert nested.ragged_rank == 2
    for source in (nested, nested[1:], nested[::-1]):
        read = [np.array(row) for row in source.to_list()]
        assert_frames(list(RaggedArray(source)), read)
    deep = tf.ragged.constant([[[[1], [2]]], [[[3], [4]], [[5], [6]]]], dtype=tf.int32)
    assert_frames(list(RaggedArray(deep)), [np.array([[[1], [2]]]), np.array([[[3], [4]], [[5], [6]]])])


@pytest.mark.parametrize("is_sorted", [True, False])
def test_a_packed_sequence_in_its_own_order(is_sorted):
    torch = pytest.importorskip("torch")
    rows = sorted(FRAMES, key=len, reverse=True) if is_sorted else FRAMES
    packed = torch.nn.utils.rnn.pack_sequence([torch.from_numpy(row) for row in rows], enforce_sorted=is_sorted)
    assert_frames(list(RaggedArray(packed)), rows)
    ((frames, still),) = LengthBucketing((packed, np.arange(5.0)), batch_size=5, buckets=1, shuffle=False)[0]
    np.testing.assert_array_equal(frames[0, : len(rows[0])], rows[0])
    assert still.tolist() == list(range(5))


SAMPLES = {
    "frames and labels at every step": [(row, row[:, 0].astype("int32")) for row in FRAMES],
    "frames and one-hot labels": [(row, np.eye(3)[number % 3]) for number, row in enumerate(FRAMES)],
    "two samples": [(row, row[:, 0]) for row in FRAMES[3:]],
    "as many samples as steps": [(np.full((3, 2), n + 1.0), np.arange(3)) for n in range(3)],
    "nested lists": [(row.tolist(), float(n)) for n, row in enumerate(FRAMES)],
}


@pytest.mark.parametrize("case", SAMPLES)
def test_samples_apart(case):
    x, y = zip(*SAMPLES[case], strict=True)
    data, listed = (LengthBucketing(*pair, batch_size=2, seed=0) for pair in ((x, y), (list(x), list(y))))
    for one, other in zip(data, listed, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_tuple_of_inputs_or_targets_stays_one():
    still = np.arange(10.0).reshape(5, 2)
    (frames, rows), (steps, labels) = LengthBucketing(
        (FRAMES, still), (FRAMES, LABELS), batch_size=5, buckets=1, shuffle=False
    )[0]
    assert frames.shape == steps.shape == (5, 5, 2)
    assert (rows.shape, labels.shape) == ((5, 2), (5,))
    two = LengthBucketing(([[1, 2], [3]], [[4], [5, 6]]), batch_size=2, buckets=1, shuffle=False)[0][0]
    assert [part.shape for part in two] == [(2, 2), (2, 2)]
    # As many targets as sequences, each of which has a row for each.
    two = LengthBucketing(FRAMES[:2], ([0, 1], [2, 3]), batch_size=2, buckets=1, shuffle=False)[0][1]
    assert [part.tolist() for part in two] == [[0, 1], [2, 3]]
    ones = LengthBucketing(FRAMES, (still, np.ones(5, "int64")), batch_size=5, buckets=1)[0][1]
    assert [part.shape for part in ones] == [(5, 2), (5,)]


def test_values_with_wrong_lengths_are_not_taken_for_two_sequences():
    for lengths in ([3, 3], np.array([3, 3])):
        with pytest.raises(ValueError, match=r"LengthBucketing: `x\[1\]` must be lengths that sum to the 7 steps"):
            LengthBucketing((np.arange(7), lengths))
