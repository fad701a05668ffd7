"""SequencePlot: what its pictures say, and that training does not notice it."""

import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from matplotlib.backends.backend_agg import FigureCanvasAgg

from keras_seqx import AttentionCell, AutoregressiveDecoder, BeamSearch, TokenGenerator
from keras_seqx.callbacks.sequence_plot import SequencePlot
from keras_seqx.callbacks.sequence_samples import matched
from tests.cases import BACKEND, numpy_alone
from tests.reference.edit_distance import distance

NAMES = ["<pad>", "<s>", "</s>", "a", "b", "c", "$d$", "e"]
JIT = {"tensorflow": [False, True], "jax": [True], "torch": [False]}[BACKEND]


def make(x, y, **options):
    return SequencePlot(x, y, **{"filepath": "unused.png"} | options)


def drawn(y, predictions, title="", **options):
    """The figure for given predictions."""
    return make(np.arange(len(y)), np.asarray(y), predict=lambda x: predictions, **options).draw(title)


def written(figure):
    """The table as lines of (text, whether it is marked), from the top and from the left."""
    (table,) = list(figure.findobj(lambda part: getattr(part, "get_label", str)() == "table"))
    lines = {}
    for text in table.texts:
        lines.setdefault(text.get_position()[1], []).append(text)
    return [
        [(t.get_text(), t.get_bbox_patch() is not None) for t in sorted(line, key=lambda t: t.get_position()[0])]
        for _, line in sorted(lines.items())
    ]


def row(figure, label):
    """The first line that begins with a label, without it, as text in which marked tokens stand in brackets."""
    (line, *_) = [line for line in written(figure) if line[0][0] == label]
    return " ".join(f"[{text}]" if marked else text for text, marked in line[1:])


def maps(figure):
    """The alignment maps: title, values, names of the rows and of the columns."""
    return [
        (
            ax.get_title(),
            np.asarray(ax.images[0].get_array()),
            [label.get_text() for label in ax.get_yticklabels()],
            [label.get_text() for label in ax.get_xticklabels()],
        )
        for ax in figure.findobj(lambda part: getattr(part, "images", None) and part.get_title())
    ]


def panels(figure):
    """The two lines of every panel, as arrays (2, 2, steps): truth and prediction, each with steps and values."""
    return [np.array([line.get_data() for line in ax.lines]) for ax in figure.axes]


def tiny_model(jit=False):
    model = keras.Sequential([keras.Input((5, 2)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(2)])
    model.compile("adam", "mse", metrics=["mae"], jit_compile=jit)
    return model


def frames(rows=12, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 5, 2)).astype("float32")


# --- When and where


def test_pictures_come_every_so_many_epochs(tmp_path):
    x, path = frames(), tmp_path / "new" / "e{epoch:02d}_{val_loss:.0e}.png"
    plot = make(x, x, freq=2, filepath=path)
    history = (
        tiny_model()
        .fit(x, x, validation_data=(x, x), epochs=6, initial_epoch=1, verbose=0, shuffle=False, callbacks=[plot])
        .history
    )
    losses = dict(zip(range(2, 7), history["val_loss"], strict=True))
    expected = [f"e{epoch:02d}_{losses[epoch]:.0e}.png" for epoch in (2, 4, 6)]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == expected
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in (tmp_path / "new").iterdir())


def test_another_ending_is_another_format_and_the_title_names_the_epoch(tmp_path):
    x = frames()
    plot = make(x, x, filepath=str(tmp_path / "picture.svg"))
    tiny_model().fit(x, x, epochs=1, verbose=0, callbacks=[plot])
    assert "<svg" in (tmp_path / "picture.svg").read_text()
    assert plot.draw("epoch 1").get_suptitle().startswith("epoch 1: mean squared error ")


def test_tensorboard_reads_the_pictures(tmp_path):
    tf = pytest.importorskip("tensorflow")
    x = frames()
    tiny_model().fit(x, x, epochs=3, verbose=0, callbacks=[make(x, x, filepath=None, log_dir=tmp_path, freq=2)])
    (path,) = (tmp_path / "sequences").iterdir()
    assert "tfevents" in path.name
    events = [tf.compat.v1.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
    assert events[0].file_version == "brain.Event:2"
    (event,) = events[1:]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (1, "sequences")
    picture = tf.io.decode_png(value.image.encoded_image_string)
    assert picture.shape == (value.image.height, value.image.width, value.image.colorspace)
    assert np.ptp(picture.numpy()) > 100


# --- Values


def test_lines_are_truths_and_predictions_without_padding():
    y, predictions, lengths = frames(4, 1), frames(4, 2), np.array([5, 3, 1, 0])
    valid = np.arange(5) < lengths[:, None]
    figures = []
    for padding in (0.0, 1e6, np.nan):
        y[~valid], predictions[~valid] = padding, -padding
        figures.append(drawn(y, predictions, "epoch 7", lengths=lengths))
    for figure in figures:
        got = panels(figure)
        assert len(got) == 8
        for (i, j), lines in zip(np.ndindex(4, 2), got, strict=True):
            steps = np.arange(lengths[i])
            expected = [[steps, y[i, : lengths[i], j]], [steps, predictions[i, : lengths[i], j]]]
            np.testing.assert_allclose(lines, expected, rtol=1e-6)
        error = np.mean((y[valid] - predictions[valid]) ** 2)
        assert figure.get_suptitle() == f"epoch 7: mean squared error {error:.3g}"


@pytest.mark.parametrize(("shape", "count", "expected"), [((6, 5), 4, 4), ((2, 5), 4, 2), ((6, 5, 9), 2, 6)])
def test_the_first_sequences_and_channels_are_shown(shape, count, expected):
    y = np.random.default_rng(0).normal(size=shape)
    figure = drawn(y, y[:count] + 1, count=count)
    got = panels(figure)
    assert len(got) == expected
    np.testing.assert_allclose(got[0][0, 1], y.reshape(*shape[:2], -1)[0, :, 0])
    np.testing.assert_allclose(got[-1][1, 1] - got[-1][0, 1], 1)
    assert figure.get_suptitle() == "mean squared error 1"


def test_series_of_one_channel_may_lack_the_axis():
    y = frames(3)[..., 0]
    assert len(panels(drawn(y, y[..., None]))) == len(panels(drawn(y[..., None], y[..., None]))) == 3
    y = np.arange(10).reshape(2, 5, 1)
    assert len(panels(drawn(y, y.astype("float16")))) == 2


# --- Tokens


def test_written_tokens_are_laid_beside_the_true_ones():
    y = [[3, 4, 5, 7, 2, 0], [3, 3, 2, 0, 0, 0]]
    predictions = np.array([[4, 5, 7, 5, 2, 0, 0], [3, 3, 2, 0, 0, 0, 0]])
    figure = drawn(y, predictions, "epoch 3", tokens=NAMES, source=np.array([[6, 7, 0], [7, 0, 7]]))
    assert row(figure, "source") == "6 7"
    assert row(figure, "true") == "a b c e · </s>"
    assert row(figure, "predicted") == "[·] b c e [c] </s>"
    lines = [line[0][0] for line in written(figure)]
    assert lines[:2] == ["epoch 3: token error rate 25.0%, 2 in 8 tokens", "sequence 1: 2 wrong"]
    assert "sequence 2: all right" in lines
    assert [[text for text, _ in line[1:]] for line in written(figure) if line[0][0] == "source"][1] == ["7", "0", "7"]
    assert not maps(figure)


def test_logits_are_compared_step_by_step_up_to_the_lengths():
    y, best = np.array([[3, 4, 5, 0], [4, 0, 5, 1]]), np.array([[4, 5, 3, 7], [4, 0, 3, 6]])
    logits = np.eye(8)[best] + np.random.default_rng(0).uniform(0, 0.5, (2, 4, 8))
    figure = drawn(y, logits, tokens=NAMES, lengths=[3, 3])
    assert row(figure, "true") == "a b c"
    assert row(figure, "predicted") == "[b] [c] [a]"
    assert written(figure)[0][0][0] == "token error rate 66.7%, 4 in 6 tokens"
    # Ids that are padding elsewhere count where they are valid.
    assert [t for line in written(figure)[-1:] for t in line[1:]] == [("b", False), ("<pad>", False), ("a", True)]


@pytest.mark.parametrize("with_source", [True, False])
def test_generated_sequences_with_scores_and_alignments(with_source):
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 8, (2, 3, 6))
    found = {"tokens": tokens, "lengths": np.array([[4, 6, 6], [2, 6, 6]]), "scores": -rng.uniform(1, 2, (2, 3))}
    found["alignments"] = rng.uniform(0.1, 1, (2, 3, 6, 5))
    found["alignments"][0, ..., 3:] = 0
    # Behind the end of a sequence a decoder may have looked anywhere.
    found["alignments"][0, :, 4:] = 1
    source = np.array([[3, 4, 5, 0, 0], [3, 4, 5, 6, 7]]) if with_source else None
    y = np.array([[*tokens[0, 0, :4], 0], [5, 0, 0, 0, 0]])
    figure = drawn(y, found, source=source, source_tokens=NAMES if with_source else None)
    assert row(figure, "predicted") == " ".join(map(str, tokens[0, 0, :4]))
    assert f"sequence 1: all right, score {found['scores'][0, 0]:.2f}" in [line[0][0] for line in written(figure)]
    for i, (title, values, predicted, names) in enumerate(maps(figure)):
        steps, length = (3, 4) if i == 0 else (5, 2)
        assert title == f"sequence {i + 1}"
        np.testing.assert_array_equal(values, found["alignments"][i, 0, :length, :steps])
        assert predicted == [str(token) for token in tokens[i, 0, :length]]
        assert not with_source or names == [NAMES[token] for token in source[i, :steps]]
    assert i == 1


def test_without_tokens_there_is_no_map():
    found = {"tokens": np.zeros((1, 3), int), "lengths": np.array([0]), "alignments": np.zeros((1, 3, 2))}
    figure = drawn([[3, 4]], found)
    assert row(figure, "predicted") == "[·] [·]"
    assert not maps(figure)
    assert written(drawn([[0, 0]], found["tokens"]))[0][0][0] == "token error rate nan%, 0 in 0 tokens"


def test_any_name_is_shown_as_it_is_on_one_line():
    y = np.array([[3, 4, 5, 6, 7, 9]])
    names = ["", "", "", "$x^2$", "new\nline", "a b", "", "_"]
    alignments = np.ones((1, 6, 6)) / 6
    figure = drawn(y, {"tokens": y, "alignments": alignments}, tokens=names, source=y, source_tokens=names)
    assert row(figure, "true") == row(figure, "source") == r"$x^2$ new\nline a␣b '' _ 9"
    assert not any(
        text.get_parse_math() for text in figure.findobj(match=type(figure.axes[-1].texts[0])) if "$" in text.get_text()
    )
    FigureCanvasAgg(figure).draw()


@pytest.mark.parametrize("steps", [60, 900])
def test_long_sequences_stay_legible(steps):
    rng = np.random.default_rng(0)
    y, source = rng.integers(1, 1000, (2, steps)), rng.integers(1, 1000, (2, steps))
    figure = drawn(y, {"tokens": y, "alignments": np.ones((2, steps, steps))}, source=source)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    page = figure.bbox
    (table,) = list(figure.findobj(lambda part: getattr(part, "get_label", str)() == "table"))
    groups = [table.texts]
    for ax in figure.findobj(lambda part: getattr(part, "images", None) and part.get_title()):
        groups += [ax.get_xticklabels(), ax.get_yticklabels()]
    assert len(groups) == 5
    for group in groups:
        boxes = [text.get_window_extent(renderer) for text in group if text.get_text()]
        assert len(boxes) > 10
        corners = np.array([[b.x0, b.y0, b.x1, b.y1] for b in boxes])
        assert (corners[:, :2] >= page.min).all()
        assert (corners[:, 2:] <= page.max).all()
        low, high = (
            np.maximum(corners[:, None, :2], corners[None, :, :2]),
            np.minimum(corners[:, None, 2:], corners[:, 2:]),
        )
        overlap = np.prod(np.clip(high - low, 0, None), axis=-1)
        np.fill_diagonal(overlap, 0)
        assert overlap.max() < 0.1 * np.prod(corners[:, 2:] - corners[:, :2], axis=-1).min()
    shown = sum(len(line) - 1 for line in written(figure) if line[0][0] != "source")
    left = [line[0][0] for line in written(figure) if "not shown" in line[0][0]]
    assert len(left) == (0 if steps == 60 else 2)
    assert steps == 900 or shown


@numpy_alone
@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_pairs_differ_as_seldom_as_can_be(true, predicted):
    pairs = matched(true, predicted)
    assert [a for a, _ in pairs if a is not None] == true
    assert [b for _, b in pairs if b is not None] == predicted
    assert (None, None) not in pairs
    assert sum(a != b for a, b in pairs) == distance(true, predicted)


# --- Training


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class Restless(keras.layers.Layer):
    """Draws and counts in inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, inputs):
        self.calls.assign(self.calls + 1)
        return inputs * (1 + 0.3 * keras.random.normal(ops.shape(inputs), seed=self.seed_generator))


@pytest.mark.parametrize("jit", JIT, ids=lambda jit: f"jit_{jit}")
def test_training_does_not_notice(jit, tmp_path):
    x = frames()

    def train(*callbacks):
        keras.utils.set_random_seed(5)
        model = keras.Sequential([keras.Input((5, 2)), Restless(), *tiny_model().layers])
        model.compile("adam", "mse", metrics=["mae"], jit_compile=jit)
        kwargs = {"epochs": 3, "batch_size": 4, "validation_data": (x, x)}
        history = model.fit(x, x, shuffle=True, verbose=0, callbacks=callbacks, **kwargs)
        return history.history, [v.numpy() for v in (*model.variables, *model.optimizer.variables)]

    plain, weights = train()
    watched, same = train(make(x, x, filepath=tmp_path / "{epoch}.png"))
    assert watched == plain
    for a, b in zip(weights, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_generator_that_shares_the_weights_is_drawn(tmp_path):
    source, start = keras.Input((4,), dtype="int32"), keras.Input((None,), dtype="int32")
    memory = keras.layers.Embedding(8, 4, mask_zero=True)(source)
    embedding = keras.layers.Embedding(8, 4, mask_zero=True)
    decoder = AutoregressiveDecoder(AttentionCell(keras.layers.GRUCell(4)), keras.layers.Dense(8), embedding=embedding)
    model = keras.Model([source, start], decoder(start, memory=memory))
    search = BeamSearch(3)
    generator = TokenGenerator(
        decoder, end_token=2, max_steps=5, search=search, num_return_sequences=2, return_alignments=True
    )
    writing = keras.Model([source, start], generator(start, memory=memory))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x, y = rng.integers(3, 8, (6, 4)), rng.integers(3, 8, (6, 5))
    x[0, 2:] = 0
    ones = np.ones((6, 1), "int32")
    plot = make([x, ones], y, predict=writing, source=x, tokens=NAMES, count=2, filepath=tmp_path / "{epoch}.png")
    inputs = np.concatenate([ones, y[:, :-1]], axis=1)
    model.fit([x, inputs], y, epochs=2, verbose=0, callbacks=[plot])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.png"]
    found = writing.predict([x[:2], ones[:2]], verbose=0)
    figure = plot.draw()
    predicted = [NAMES[i] for i in found["tokens"][0, 0, : found["lengths"][0, 0]]]
    assert [text.strip("[]") for text in row(figure, "predicted").split() if text != "[·]"] == predicted
    (_, values, _, names), *_ = maps(figure)
    np.testing.assert_allclose(values, found["alignments"][0, 0, : len(predicted), :2], atol=1e-5)
    assert names == [str(i) for i in x[0, :2]]
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)
    # The trained model's own logits, step by step.
    own = make([x, inputs], y, count=2)
    own.set_model(model)
    best = model.predict([x[:2], inputs[:2]], verbose=0).argmax(axis=-1)
    assert row(own.draw(), "predicted") == " ".join(
        str(b) if b == t else f"[{b}]" for b, t in zip(best[0], y[0], strict=True)
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_precisions(policy):
    keras.config.set_dtype_policy(policy)
    x = frames()
    plot, model = make(x, x), tiny_model()
    plot.set_model(model)
    (lines, *_) = panels(plot.draw())
    expected = ops.convert_to_numpy(ops.cast(model.predict(x[:4], verbose=0), "float32"))
    np.testing.assert_allclose(lines[1, 1], expected[0, :, 0], rtol=1e-2, atol=1e-2)


# --- Around it


def test_a_figure_leaves_pyplot_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    assert panels(drawn(frames(2), frames(2)))


@pytest.mark.parametrize(
    ("module", "options", "text"),
    [
        ("matplotlib", {}, r'SequencePlot needs matplotlib: pip install "keras_seqx\[examples\]"'),
        ("tensorflow", {"log_dir": "logs"}, "SequencePlot: `log_dir` needs tensorflow"),
    ],
)
def test_what_is_missing_is_named(module, options, text, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=text):
        make(frames(), frames(), **options)


def test_options_round_trip():
    x, y = frames(), np.ones((12, 4), int)
    options = {"tokens": NAMES, "source_tokens": "abc", "count": 2, "freq": 3, "filepath": "a.png", "log_dir": "logs"}
    plot = SequencePlot(x, y, **options)
    config = plot.get_config()
    assert config == options | {"source_tokens": ["a", "b", "c"]}
    assert keras.saving.get_registered_name(SequencePlot) == "keras_seqx>SequencePlot"
    again = SequencePlot.from_config(config, x, y, lengths=np.full(12, 3), source=y, predict=len)
    assert again.get_config() == config
    assert again.predict is len
    np.testing.assert_array_equal(again.samples.lengths, [3, 3])


VALUES, IDS = frames(), np.ones((12, 4), int)


@pytest.mark.parametrize(
    ("changes", "kind", "text"),
    [
        ({"y": VALUES[:, 0, 0]}, ValueError, r"`y` must be of shape \(B, T\) or \(B, T, D\)"),
        ({"y": VALUES[:0]}, ValueError, "`y` must be of shape"),
        ({"y": np.full((12, 4), "a")}, TypeError, "`y` must be an array of numbers"),
        ({"x": VALUES[:5]}, ValueError, "`x` must be of 12 rows"),
        ({"x": {"a": VALUES, "b": 3}}, TypeError, "`x` must be arrays"),
        ({"lengths": [1, 2]}, ValueError, r"`lengths` must be of shape \(B,\)"),
        ({"lengths": np.full(12, 6)}, ValueError, "`lengths` must be within 0 and 5"),
        ({"lengths": np.full(12, -1)}, ValueError, "`lengths` must be within 0 and 5"),
        ({"lengths": np.full(12, 1.0)}, TypeError, "`lengths` must be an array of integers"),
        ({"source": IDS}, ValueError, "`source` must be None where `y` are values"),
        ({"tokens": NAMES}, ValueError, "`tokens` must be None where `y` are values"),
        ({"y": IDS, "tokens": [1, 2]}, TypeError, "`tokens` must be a sequence of strings"),
        ({"y": IDS, "source_tokens": 3}, TypeError, "`source_tokens` must be a sequence of strings"),
        ({"y": IDS, "source": IDS[0]}, ValueError, r"`source` must be of shape \(B, S\)"),
        ({"y": IDS, "source": IDS * 1.0}, TypeError, "`source` must be an array of integers"),
        ({"predict": "model"}, TypeError, "`predict` must be a model or another function"),
        ({"count": 0}, ValueError, "`count` must be an integer of at least 1"),
        ({"freq": 1.5}, TypeError, "`freq` must be an integer"),
        ({"filepath": None}, ValueError, "`filepath` must be a path where `log_dir` is None"),
        ({"filepath": 3}, TypeError, "`filepath` must be a string or a path"),
        ({"log_dir": True}, TypeError, "`log_dir` must be a string or a path"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else getattr(value, "__name__", ""),
)
def test_bad_options(changes, kind, text):
    with pytest.raises(kind, match=f"SequencePlot: {text}"):
        make(**{"x": VALUES, "y": VALUES} | changes)


@pytest.mark.parametrize(
    ("y", "predictions", "text"),
    [
        (VALUES, VALUES[:4, :3], r"one that returns an array of shape \(4, 5, 2\)"),
        (VALUES, [VALUES[:4], VALUES[:4]], "one that returns an array"),
        (VALUES[..., 0], VALUES[:4], r"one that returns an array of shape \(4, 5, 1\)"),
        (IDS, VALUES[:4], "one that returns logits"),
        (IDS, IDS[:4] * 1.0, "one that returns logits"),
        (IDS, IDS[:3], "one that returns logits"),
        (IDS, IDS[:4, :, None], "one that returns logits"),
        (IDS, {"ids": IDS[:4]}, "one that returns logits"),
    ],
    ids=["steps", "two outputs", "channels", "logits' steps", "float ids", "rows", "an axis more", "another key"],
)
def test_predictions_of_another_shape_are_refused(y, predictions, text):
    with pytest.raises(ValueError, match=f"SequencePlot: `predict` must be {text}.*what it returned"):
        drawn(y, predictions)


def test_a_path_names_what_is_logged_and_a_picture_needs_a_model():
    with pytest.raises(ValueError, match=r"must be a path that names nothing but epoch, loss.*'accuracy'"):
        make(VALUES, VALUES, predict=lambda x: x, filepath="{accuracy}.png").on_epoch_end(0, {"loss": 1.0})
    with pytest.raises(ValueError, match="SequencePlot: `model` must be set where there is no `predict`"):
        make(VALUES, VALUES).draw()
