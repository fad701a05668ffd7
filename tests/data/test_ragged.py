"""RaggedArray: every source gives the same sequences, and padding them is what a plain loop does."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_seqx.data.sequences.ragged_array import RaggedArray, read
from tests.cases import numpy_alone

pytestmark = numpy_alone


@pytest.fixture(autouse=True)
def _fresh_keras():
    """Nothing here uses Keras, so that nothing of it is cleared between the tests."""


INNER = [(), (3,), (2, 2)]
DTYPES = ["int32", "int64", "uint8", "float32", "float64"]


@st.composite
def sequences(draw, dtypes=DTYPES, longest=6):
    """A list of arrays (T, ...), of one dtype and one inner shape, no two values alike."""
    lengths = draw(st.lists(st.integers(1, longest), min_size=1, max_size=6))
    shape = (sum(lengths), *draw(st.sampled_from(INNER)))
    values = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.prod(shape)).reshape(shape)
    return np.split(values.astype(draw(st.sampled_from(dtypes))), np.cumsum(lengths)[:-1])


def assert_holds(array, rows):
    """The array has these sequences, and no others."""
    assert len(array) == len(rows)
    assert array.lengths.tolist() == [len(row) for row in rows]
    assert array.inner_shape == rows[0].shape[1:]
    assert array.dtype == rows[0].dtype
    for received, row in zip(array, rows, strict=True):
        np.testing.assert_array_equal(received, row)


def arrow(rows, large=False):
    """A pyarrow array of lists; inner axes are lists of fixed size."""
    pa = pytest.importorskip("pyarrow")
    values = np.concatenate(rows)
    child = pa.array(values.reshape(-1))
    for width in reversed(values.shape[1:]):
        child = pa.FixedSizeListArray.from_arrays(child, width)
    offsets = np.cumsum([0, *map(len, rows)])
    if large:
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), child)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), child)


def later_offsets(rows):
    """A pyarrow array whose first list does not start at its first value."""
    whole = arrow([rows[0], *rows])
    return type(whole).from_arrays(whole.offsets[1:], whole.values)


def chunked(rows):
    pa = pytest.importorskip("pyarrow")
    return pa.chunked_array([arrow(rows[:1]), arrow(rows)[1:]])


def nested_lists(rows):
    """A pyarrow array whose inner axes are lists that happen to be equally long."""
    pa = pytest.importorskip("pyarrow")
    kind = pa.from_numpy_dtype(rows[0].dtype)
    for _ in range(rows[0].ndim):
        kind = pa.list_(kind)
    return pa.array([row.tolist() for row in rows], kind)


def series(rows, kind=None):
    pd = pytest.importorskip("pandas")
    return pd.Series(rows, dtype=kind, index=range(len(rows), 0, -1))


def arrow_series(rows):
    pd, lists = pytest.importorskip("pandas"), arrow(rows)
    return pd.Series(pd.arrays.ArrowExtensionArray(chunked(rows)), dtype=pd.ArrowDtype(lists.type))


def dataset(rows):
    datasets, pa = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    return datasets.Dataset(pa.table({"other": range(len(rows)), "x": arrow(rows)}))


def tf_ragged(rows):
    tf = pytest.importorskip("tensorflow")
    return tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [len(row) for row in rows])


def object_array(rows):
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def as_lists(rows):
    return [row.tolist() for row in rows]


SOURCES = {
    "pair": lambda rows: (np.concatenate(rows), [len(row) for row in rows]),
    "ragged array": RaggedArray,
    "list of arrays": list,
    "list of lists": as_lists,
    "list of tuples": lambda rows: [tuple(row) for row in as_lists(rows)],
    "tuple of lists": lambda rows: tuple(as_lists(rows)),
    "object array": object_array,
    "tf.RaggedTensor": tf_ragged,
    "list of tensors": lambda rows: [pytest.importorskip("tensorflow").constant(row) for row in rows],
    "pyarrow lists": arrow,
    "pyarrow large lists": lambda rows: arrow(rows, large=True),
    "pyarrow slice": lambda rows: arrow([rows[0], *rows, rows[-1]])[1:-1],
    "pyarrow later offsets": later_offsets,
    "pyarrow chunks": chunked,
    "pyarrow nested lists": nested_lists,
    "pandas arrays": series,
    "pandas lists": lambda rows: series(as_lists(rows)),
    "pandas arrow": arrow_series,
    "datasets": lambda rows: dataset(rows)["x"],
    "datasets as numpy": lambda rows: dataset(rows).with_format("numpy")["x"],
}


@pytest.mark.parametrize("kind", SOURCES)
@given(rows=sequences())
def test_every_source_gives_its_sequences(kind, rows):
    array = RaggedArray(SOURCES[kind](rows))
    if kind.split()[-1] in ("lists", "tuples") and "pyarrow" not in kind:
        rows = [np.array(row.tolist()) for row in rows]
    assert_holds(array, rows)
    assert array.starts.dtype == array.lengths.dtype == np.int64


@given(rows=sequences(), steps=st.integers(1, 4))
def test_a_dense_array_holds_equally_long_sequences(rows, steps):
    dense = np.stack([np.resize(row, (steps, *row.shape[1:])) for row in rows])
    assert_holds(RaggedArray(dense), list(dense))
    assert np.shares_memory(RaggedArray(dense).values, dense)
    assert_holds(RaggedArray(dense[::-1, ::-1]), list(dense[::-1, ::-1]))


def test_a_pyarrow_list_of_fixed_size_may_be_a_slice():
    pa = pytest.importorskip("pyarrow")
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8)), 2)
    assert_holds(RaggedArray(fixed[1:3]), [np.array([2, 3]), np.array([4, 5])])
    assert np.shares_memory(RaggedArray(fixed[1:3]).values, fixed.values.to_numpy())


@given(rows=sequences())
def test_values_are_not_copied(rows):
    values, lengths = np.concatenate(rows), np.array([len(row) for row in rows], "uint8")
    for array in (RaggedArray(values, lengths), RaggedArray((values, lengths)), read(RaggedArray(values, lengths))):
        assert_holds(array, rows)
        assert array.values.ctypes.data == values.ctypes.data
        assert np.shares_memory(array[1:].values, values)
        assert np.shares_memory(array[0], values)


@pytest.mark.parametrize("kind", ["pyarrow lists", "pyarrow slice", "pyarrow later offsets"])
@given(rows=sequences())
def test_pyarrow_values_are_not_copied(kind, rows):
    source = SOURCES[kind](rows)
    leaf = source.values
    while hasattr(leaf, "values"):
        leaf = leaf.values
    assert np.shares_memory(RaggedArray(source).values, leaf.to_numpy())


def test_a_pyarrow_chunk_beside_empty_ones_is_not_copied():
    pa, lists = pytest.importorskip("pyarrow"), arrow([np.arange(3), np.arange(2)])
    array = RaggedArray(pa.chunked_array([lists[:0], lists, lists[:0]]))
    assert np.shares_memory(array.values, lists.values.to_numpy())


@given(rows=sequences())
def test_values_of_data_sets_and_frames_are_not_copied(rows):
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    lists = arrow(rows)
    frame = pd.Series(lists, dtype=pd.ArrowDtype(lists.type))
    data = pytest.importorskip("datasets").Dataset(pa.table({"x": lists}))
    known = RaggedArray(lists).values
    assert np.shares_memory(RaggedArray(frame).values, known)
    assert np.shares_memory(RaggedArray(data["x"]).values, known)


@given(rows=sequences())
def test_tensor_values_are_not_copied_and_stay(rows):
    pytest.importorskip("tensorflow")
    ragged = tf_ragged(rows)
    array = RaggedArray(ragged)
    assert np.shares_memory(array.values, np.asarray(memoryview(ragged.flat_values)))
    del ragged
    assert_holds(array, rows)


def test_a_tensor_of_bfloat16_is_read():
    tf = pytest.importorskip("tensorflow")
    array = RaggedArray(tf.cast(tf.ragged.constant([[1.5, 2.0], [3.0]]), tf.bfloat16))
    assert str(array.dtype) == "bfloat16"
    np.testing.assert_array_equal(array.pad().astype("float32"), [[1.5, 2], [3, 0]])


def stored(path, values, offset):
    """A memory map of the values that begins `offset` bytes into its file."""
    path.unlink(missing_ok=True)  # an earlier map of the file may live still
    path.write_bytes(b"." * offset + values.tobytes())
    return np.memmap(path, values.dtype, "r", offset, values.shape)


@pytest.mark.parametrize("offset", [0, 3], ids=["aligned", "unaligned"])
def test_a_memory_map_is_not_copied(tmp_path, offset):
    mapped = stored(tmp_path / "values", np.arange(12, dtype="int32").reshape(6, 2), offset)
    array = RaggedArray(mapped, [2, 4])
    assert np.shares_memory(array.values, mapped)
    assert_holds(array, [mapped[:2], mapped[2:]])
    np.testing.assert_array_equal(array.pad([0], length=3), [[[0, 1], [2, 3], [0, 0]]])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.select([3, 0, 0]),
        lambda data: data.select(range(1, 4)),
        lambda data: data.shuffle(seed=1),
        lambda data: data.filter(lambda row: row["other"] % 2),
        lambda data: data.select([4, 2, 1]).filter(lambda row: row["other"] > 1).with_format("tf"),
    ],
    ids=["select", "slice", "shuffle", "filter", "several"],
)
def test_a_changed_data_set_is_read_through_arrow(change, monkeypatch):
    datasets = pytest.importorskip("datasets")
    data = change(dataset([np.arange(10 * n, 11 * n) for n in range(1, 6)]))
    expected = [np.array(row) for row in data.with_format(None)["x"]]
    monkeypatch.setattr(datasets.arrow_dataset.Column, "__iter__", lambda self: pytest.fail("read row by row"))
    assert_holds(RaggedArray(data["x"]), expected)


def test_the_transform_of_a_data_set_is_applied():
    data = dataset([np.arange(3), np.arange(2)])
    data.set_transform(lambda batch: {"x": [[10 * step for step in row] for row in batch["x"]]})
    assert_holds(RaggedArray(data["x"]), [np.array([0, 10, 20]), np.array([0, 10])])


def test_arrays_of_a_data_set_and_nested_fields_are_read():
    datasets = pytest.importorskip("datasets")
    rows = [np.ones((2, 3), "float32"), np.zeros((1, 3), "float32")]
    features = datasets.Features({"x": datasets.Array2D((None, 3), "float32")})
    assert_holds(RaggedArray(datasets.Dataset.from_dict({"x": rows}, features)["x"]), rows)
    nested = datasets.Dataset.from_dict({"x": [{"y": [1, 2]}, {"y": [3]}]})["x"]["y"]
    assert_holds(RaggedArray(nested), [np.array([1, 2]), np.array([3])])


@given(rows=sequences(), data=st.data())
def test_selects_as_a_list_does(rows, data):
    array, count = RaggedArray(rows), len(rows)
    picks = data.draw(st.lists(st.integers(-count, count - 1), min_size=1))
    mask = np.arange(count) % 2 == 0
    step = data.draw(st.sampled_from([1, 2, -1]))
    for index, expected in [
        (picks, [rows[i] for i in picks]),
        (np.array(picks), [rows[i] for i in picks]),
        (mask, rows[::2]),
        (slice(None, None, step), rows[::step]),
    ]:
        assert_holds(array[index], expected)
        assert array[index].values is array.values
        assert_holds(RaggedArray(array[index]), expected)
        assert_holds(array[index][::-1], expected[::-1])
        assert_holds(pickle.loads(pickle.dumps(array[index])), expected)
    np.testing.assert_array_equal(array[picks[0]], rows[picks[0]])
    assert len(array[:0]) == 0


@pytest.mark.parametrize("index", [3, -4, None, "a", [[0]], [True]], ids=repr)
def test_bad_index(index):
    with pytest.raises(IndexError):
        RaggedArray([[1], [2, 3], [4]])[index]


def test_repr_is_short():
    array = RaggedArray([np.zeros((3, 2), "float32"), np.zeros((5, 2), "float32")])
    assert repr(array) == "RaggedArray(2 sequences of 3 to 5 steps, inner shape (2,), float32)"
    assert repr(array[:0]) == "RaggedArray(0 sequences, inner shape (2,), float32)"


def padded(rows, length, value, dtype):
    """What `pad` returns, step by step."""
    batch = np.full((len(rows), length, *rows[0].shape[1:]), value, dtype)
    for b, row in enumerate(rows):
        for t in range(min(len(row), length)):
            batch[b, t] = row[t]
    return batch


LAYOUTS = {
    "as read": lambda values, path: values,
    "strided": lambda values, path: np.repeat(values, 2, axis=0)[::2],
    "transposed": lambda values, path: np.asfortranarray(values),
    "memory map": lambda values, path: stored(path, values, 0),
    "unaligned": lambda values, path: stored(path, values, 3),
}


# Lengths on both sides of where single steps are gathered no more, with any inner shape.
@pytest.mark.parametrize("length", [None, 1, 4, 30, 45, 140])
@pytest.mark.parametrize("layout", LAYOUTS)
@given(rows=sequences(longest=50), data=st.data())
def test_pad_does_what_a_loop_does(tmp_path_factory, layout, length, rows, data):
    path = tmp_path_factory.getbasetemp() / "values"
    array = RaggedArray(LAYOUTS[layout](np.concatenate(rows), path), [len(row) for row in rows])
    picks = data.draw(st.lists(st.integers(-len(rows), len(rows) - 1), min_size=1))
    dtype = data.draw(st.sampled_from([None, "float32", "int64"]))
    value = data.draw(st.sampled_from([0, 1, 7.0]))
    longest = length or max(len(rows[i]) for i in picks)
    expected = padded([rows[i] for i in picks], longest, value, dtype or array.dtype)
    for batch in (array.pad(picks, length, value, dtype), array[picks].pad(None, length, value, dtype)):
        assert batch.dtype == expected.dtype
        np.testing.assert_array_equal(batch, expected)
        batch[:] = 1  # its own memory: no value changes
    assert_holds(array, rows)


@pytest.mark.parametrize("length", [2, 200])
@pytest.mark.parametrize("dtype", ["bool", ">i4", "float16", "bfloat16", "float8_e4m3fn", "int4", "complex64"])
def test_pad_keeps_every_dtype_of_numbers(dtype, length):
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    values = np.array([1, 0, 1, 1])
    batch = RaggedArray(values.astype(kind), [3, 1]).pad(length=length, padding_value=1)
    assert batch.dtype == kind
    np.testing.assert_array_equal(batch.astype("complex64"), padded([values[:3], values[3:]], length, 1, "complex64"))


@pytest.mark.parametrize("value", [0.1, -3, np.nan, np.inf, np.float64(2.5), np.array(1)], ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pad_rounds_to_floats(value, dtype):
    kind = np.dtype(getattr(pytest.importorskip("ml_dtypes"), dtype, dtype))
    batch = RaggedArray([[1, 2], [3]]).pad(padding_value=value, dtype=kind)
    np.testing.assert_array_equal(batch[1, 1].astype("float64"), np.asarray(value).astype(kind).astype("float64"))


def test_pad_of_one_long_sequence_among_short_ones():
    rows = [np.arange(n) for n in (1, 1, 3000, 1)]
    np.testing.assert_array_equal(RaggedArray(rows).pad(), padded(rows, 3000, 0, "int64"))
    np.testing.assert_array_equal(RaggedArray(rows).pad([3, 0], 3000), padded([rows[3], rows[0]], 3000, 0, "int64"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pad_of_few_sequences_touches_few_values(tmp_path, layout):
    values = LAYOUTS[layout](np.zeros((300_000, 2)), tmp_path / "values")
    array = RaggedArray(values, np.full(100_000, 3))
    tracemalloc.start()
    array.pad(np.arange(4), length=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < values.nbytes / 10


def test_pad_of_no_sequences_and_of_steps_without_numbers():
    array = RaggedArray([[1, 2], [3]])
    assert array.pad(np.array([], "int32"), length=4).shape == (0, 4)
    assert array[:0].pad().shape == (0, 0)
    assert RaggedArray(np.zeros((3, 0)), [1, 2]).pad().shape == (2, 2, 0)


BAD_PADDING = [
    ({"rows": [0, 2]}, ValueError, "`rows` must be positions of sequences, of which there are 2"),
    ({"rows": [-3]}, ValueError, "`rows` must be positions of sequences, of which there are 2"),
    ({"rows": [0.0]}, TypeError, "`rows` must be integers (B,)"),
    ({"rows": [True, False]}, TypeError, "`rows` must be integers (B,)"),
    ({"rows": [[0]]}, TypeError, "`rows` must be integers (B,)"),
    ({"rows": 0}, TypeError, "`rows` must be integers (B,)"),
    ({"length": 0}, ValueError, "`length` must be an integer of at least 1"),
    ({"length": 2.0}, TypeError, "`length` must be an integer of at least 1"),
    ({"dtype": "U3"}, TypeError, "`dtype` must be a dtype of numbers"),
    ({"dtype": object}, TypeError, "`dtype` must be a dtype of numbers"),
    ({"padding_value": 0.5}, ValueError, "`padding_value` must be a number that int64 holds"),
    ({"padding_value": np.nan}, ValueError, "`padding_value` must be a number that int64 holds"),
    ({"padding_value": 2**80}, ValueError, "`padding_value` must be a number that int64 holds"),
    ({"padding_value": -1, "dtype": "uint8"}, ValueError, "`padding_value` must be a number that uint8 holds"),
    ({"padding_value": 256, "dtype": "uint8"}, ValueError, "`padding_value` must be a number that uint8 holds"),
    ({"padding_value": 2, "dtype": "bool"}, ValueError, "`padding_value` must be a number that bool holds"),
    ({"padding_value": 1j, "dtype": "float32"}, ValueError, "`padding_value` must be a number that float32"),
    ({"padding_value": 1e9, "dtype": "float16"}, ValueError, "`padding_value` must be a number that float16"),
    ({"padding_value": "0"}, ValueError, "`padding_value` must be a number that int64 holds"),
    ({"padding_value": None}, ValueError, "`padding_value` must be a number that int64 holds"),
    ({"padding_value": [0]}, ValueError, "`padding_value` must be a number that int64 holds"),
]


@pytest.mark.parametrize(("arguments", "error", "words"), BAD_PADDING, ids=[str(case[0]) for case in BAD_PADDING])
def test_bad_padding(arguments, error, words):
    with pytest.raises(error) as caught:
        RaggedArray([[1, 2], [3]]).pad(**arguments)
    assert f"RaggedArray: {words}" in str(caught.value)


NUMBERS = "`words` must be numbers"
ROWS = "`words` must be a sequence in each row"
STEPS = "`words` must be sequences whose steps have one shape"
EMPTY = "`words` must be of at least 1 step in each sequence. Received: `words`=0 (the length of row 1)"


def nulls(rows):
    return pytest.importorskip("pyarrow").array(rows)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        pytest.param(list, ValueError, "`words` must be of at least 1 sequence", id="no sequences"),
        pytest.param(lambda: np.zeros((0, 3)), ValueError, "`words` must be of at least 1 sequence", id="no rows"),
        pytest.param(lambda: RaggedArray([[1]])[:0], ValueError, "of at least 1 sequence", id="empty selection"),
        pytest.param(lambda: nulls([[1]])[:0], ValueError, "of at least 1 sequence", id="empty column"),
        pytest.param(
            lambda: pytest.importorskip("pyarrow").chunked_array([], nulls([[1]]).type),
            ValueError,
            "of at least 1 sequence",
            id="no chunks",
        ),
        pytest.param(lambda: [[1], []], ValueError, EMPTY, id="empty list"),
        pytest.param(lambda: [np.ones((1, 2)), np.ones((0, 2))], ValueError, EMPTY, id="empty array"),
        pytest.param(lambda: [np.ones(1, "int32"), []], ValueError, EMPTY, id="empty list among arrays"),
        pytest.param(lambda: nulls([[1], []]), ValueError, EMPTY, id="empty row of a column"),
        pytest.param(lambda: np.zeros((3, 0)), ValueError, "(the length of row 0)", id="no steps"),
        pytest.param(lambda: [1, 2], TypeError, f"{ROWS}. Received: `words`=1 (row 0)", id="flat list"),
        pytest.param(lambda: np.arange(3), TypeError, ROWS, id="flat array"),
        pytest.param(lambda: [[1], None], TypeError, f"{ROWS}. Received: `words`=None (row 1)", id="None row"),
        pytest.param(lambda: ["ab", "c"], TypeError, ROWS, id="strings"),
        pytest.param(lambda: [{1: 2}], TypeError, ROWS, id="dicts"),
        pytest.param(
            lambda: [["a"], ["bcd"]], TypeError, f"{NUMBERS}. Received: `words`=dtype('<U3')", id="characters"
        ),
        pytest.param(lambda: [np.array(["a"]), np.array(["bcd"])], TypeError, NUMBERS, id="arrays of characters"),
        pytest.param(lambda: [[1, None]], TypeError, f"{NUMBERS}. Received: `words`=dtype('O')", id="None step"),
        pytest.param(lambda: [[b"a"]], TypeError, NUMBERS, id="bytes"),
        pytest.param(lambda: np.ones((2, 3), object), TypeError, NUMBERS, id="objects"),
        pytest.param(lambda: np.zeros((2, 3), "M8[s]"), TypeError, NUMBERS, id="dates"),
        pytest.param(lambda: np.zeros((2, 3), "i4,f4"), TypeError, NUMBERS, id="structures"),
        pytest.param(lambda: np.zeros((2, 3), "V4"), TypeError, NUMBERS, id="raw memory"),
        pytest.param(
            lambda: [np.ones((1, 3)), np.ones((2, 3)), np.ones((1, 4))],
            ValueError,
            f"{STEPS}, (3,) as in row 0. Received: `words`=(4,) (steps of row 2)",
            id="ragged arrays",
        ),
        pytest.param(
            lambda: [[[1, 2]], [[1, 2, 3]]],
            ValueError,
            f"{STEPS}, (2,) as in row 0. Received: `words`=(3,) (steps of row 1)",
            id="ragged nested lists",
        ),
        pytest.param(lambda: [[[1]], [[1], [1, 2]]], ValueError, "(the type of row 1)", id="ragged row"),
        pytest.param(
            lambda: nulls([[[1, 2]], [[3, 4]], [[5, 6], [7]]])[1:],
            ValueError,
            f"{STEPS}, (2,) as in row 0. Received: `words`=(1,) (steps of row 1)",
            id="ragged column",
        ),
        pytest.param(
            lambda: nulls([[[1]], [[2]], [[3, 4], [5]]]), ValueError, "(steps of row 2)", id="column ragged at a start"
        ),
        pytest.param(
            lambda: nulls([[[[1], [2]]], [[[1], [2]], [[1], [2, 3]]]]), ValueError, "(steps of row 1)", id="deep column"
        ),
        pytest.param(lambda: [[1, 2], [[1, 2]]], ValueError, f"{STEPS}, () as in row 0", id="lists of other rank"),
        pytest.param(lambda: [np.ones(2), np.ones((2, 1))], ValueError, f"{STEPS}, () as", id="arrays of other rank"),
        pytest.param(
            lambda: [np.ones(2, "float32"), np.ones(2, "int64")],
            TypeError,
            "arrays of one dtype, float32 as in row 0. Received: `words`=dtype('int64') (dtype of row 1)",
            id="mixed dtypes",
        ),
        pytest.param(lambda: nulls([[1], None]), ValueError, "`words` must be without nulls", id="null row"),
        pytest.param(lambda: nulls([[1], [None]]), ValueError, "`words` must be without nulls", id="null step"),
        pytest.param(lambda: nulls([[[1], None]]), ValueError, "`words` must be without nulls", id="null inner list"),
        pytest.param(lambda: nulls([["a"]]), TypeError, NUMBERS, id="column of strings"),
        pytest.param(lambda: nulls([1, 2]), TypeError, "`words` must be a column of lists", id="flat column"),
        pytest.param(lambda: series([[1], None]), TypeError, ROWS, id="None in a series"),
        pytest.param(lambda: series([1, 2], "Int64"), TypeError, "a column of lists", id="flat series"),
        pytest.param(
            lambda: pytest.importorskip("tensorflow").ragged.constant([[[1, 2]], [[3]]]),
            ValueError,
            "`words` must be ragged in one axis. Received: `words`=2 (its ragged rank)",
            id="ragged twice",
        ),
        pytest.param(
            lambda: (np.arange(3), np.arange(3, 7)), ValueError, "two sequences belong in a list", id="tuple of two"
        ),
        pytest.param(lambda: (np.arange(3), [1, 1]), ValueError, "`words[1]` must be lengths that sum", id="pair"),
        pytest.param(lambda: {"a": [1]}, TypeError, "`words` must be sequences: a list of", id="dict"),
        pytest.param(
            lambda: ([i] for i in range(3)), TypeError, "`words` must be sequences: a list of", id="generator"
        ),
        pytest.param(lambda: "abc", TypeError, "`words` must be sequences: a list of", id="string"),
        pytest.param(lambda: np.array(3), TypeError, "`words` must be sequences: a list of", id="scalar"),
        pytest.param(lambda: None, TypeError, "`words` must be sequences: a list of", id="None"),
        pytest.param(lambda: dataset([np.arange(2)]), TypeError, "`words` must be sequences: a list", id="data set"),
        pytest.param(
            lambda: dataset([np.arange(2)]).to_iterable_dataset()["x"],
            TypeError,
            "`words` must be sequences: a list",
            id="column without end",
        ),
    ],
)
def test_bad_source(make, error, words):
    with pytest.raises(error) as caught:
        read(make(), "Reader", "words")
    assert str(caught.value).startswith("Reader: `words")
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        pytest.param([1.0, 2.0], TypeError, "integers (R,)", id="floats"),
        pytest.param([np.nan, 3], TypeError, "integers (R,)", id="NaN"),
        pytest.param([True, True, True], TypeError, "integers (R,)", id="bools"),
        pytest.param([[1, 2]], TypeError, "integers (R,)", id="two axes"),
        pytest.param(3, TypeError, "integers (R,)", id="scalar"),
        pytest.param(["3"], TypeError, "integers (R,)", id="string"),
        pytest.param([4, -1], ValueError, "of at least 1 step in each sequence. Received: `lengths`=-1", id="negative"),
        pytest.param([0, 3], ValueError, "of at least 1 step in each sequence. Received: `lengths`=0", id="zero"),
        pytest.param([1, 1], ValueError, "lengths that sum to the 3 steps", id="too few"),
        pytest.param([3, 1], ValueError, "lengths that sum to the 3 steps", id="too many"),
        pytest.param(np.array([2**63, 2**63, 3], "uint64"), ValueError, "lengths that sum to the 3", id="overflow"),
        pytest.param([], ValueError, "lengths that sum to the 3 steps", id="none"),
    ],
)
def test_bad_lengths(lengths, error, words):
    with pytest.raises(error) as caught:
        RaggedArray(np.arange(3), lengths)
    assert f"RaggedArray: `lengths` must be {words}" in str(caught.value)


def test_values_beside_lengths_are_an_array():
    with pytest.raises(TypeError, match=r"RaggedArray: `source` must be an array \(N, \.\.\.\) beside its lengths"):
        RaggedArray([1, 2, 3], [1, 2])
