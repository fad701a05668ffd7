"""A layer that a decoder holds and something else uses: one layer, in files, clones, transfers and at other lengths."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops, tree

import keras_seqx
from keras_seqx import AttentionCell, AutoregressiveDecoder, MaskedTimeDistributed, TokenGenerator
from tests.cases import normal, randomize, to_numpy

VOCABULARY, WIDTH, STEPS = 7, 4, 5


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class TiedLogits(keras.layers.Layer):
    """Logits by the matrix of an embedding, which it holds."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.embedding.input_dim)

    def get_config(self):
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "embedding": keras.saving.deserialize_keras_object(config["embedding"])})


@dataclasses.dataclass(frozen=True)
class Sharing:
    """What a model's first decoder shares, and with what.

    Attributes:
        encoder: None, or who reads its embedding too: the "model", or a model in it, "nested".
        output: "own", "tied" to the embedding by a layer, or "reversible", the embedding itself.
        elsewhere: where else the output layer is used: None, "before", "after", at "each step", or by Keras' "wrapper".
        second: what a second decoder has in common with the first.
        attention: whether the first one's cell is within an AttentionCell.
        generator: whether a TokenGenerator searches with the first.
    """

    encoder: str | None = None
    output: str = "own"
    elsewhere: str | None = None
    second: frozenset | None = None
    attention: bool = False
    generator: bool = False


CASES = {
    "embedding of encoder and decoder": Sharing(encoder="model"),
    "embedding of a nested encoder": Sharing(encoder="nested", generator=True),
    "output layer before": Sharing(elsewhere="before"),
    "output layer after": Sharing(elsewhere="after", generator=True),
    "output layer in a wrapper": Sharing(elsewhere="wrapper"),
    "one output layer in two decoders": Sharing(second=frozenset({"output_layer"})),
    "one cell in two decoders": Sharing(second=frozenset({"cell"}), attention=True),
    "custom tied output layer": Sharing("model", "tied", "each step", frozenset({"embedding"})),
    "reversible embedding": Sharing("model", "reversible", "before", frozenset({"output_layer", "embedding"})),
}
DRAWN = st.builds(
    Sharing,
    st.sampled_from([None, "model"]),
    st.sampled_from(["own", "tied", "reversible"]),
    st.sampled_from([None, "before", "after", "each step"]),
    st.none() | st.frozensets(st.sampled_from(["cell", "output_layer", "embedding"])),
    st.booleans(),
    st.booleans(),
).filter(
    # `clone_model` copies the embedding, and then the user's layer that holds it, before any layer of the package,
    # and makes two embeddings of one: so it does in a model without the package.
    lambda shared: (shared.encoder, shared.output, shared.elsewhere) != ("model", "tied", "before")
)


def make(shared, seed=0):
    """A model of ids (B, 5), twice, with random weights."""
    layers = keras.layers
    source, target = (keras.Input((STEPS,), dtype="int32", name=name) for name in ("source", "target"))
    kind = layers.ReversibleEmbedding if shared.output == "reversible" else layers.Embedding
    embedding = kind(VOCABULARY, WIDTH)
    outputs = {"own": lambda: layers.Dense(VOCABULARY), "tied": lambda: TiedLogits(embedding)}
    output_layer = outputs.get(shared.output, lambda: embedding)()
    options = {"reverse": True} if shared.output == "reversible" else {}

    reader = embedding if shared.encoder else layers.Embedding(VOCABULARY, WIDTH)
    inner = keras.Input((STEPS,), dtype="int32") if shared.encoder == "nested" else source
    encoded, *states = layers.LSTM(WIDTH, return_sequences=True, return_state=True)(reader(inner))
    if shared.encoder == "nested":
        encoded, *states = keras.Model(inner, [encoded, *states], name="encoder")(source)

    cell = layers.LSTMCell(WIDTH)
    first = AttentionCell(cell, input_feeding=False) if shared.attention else cell
    decoder = AutoregressiveDecoder(first, output_layer, embedding=embedding, name="first")
    memory = {"memory": encoded} if shared.attention else {}
    results = [decoder(target, initial_state=states, **memory)]
    if shared.elsewhere == "before":
        results.append(output_layer(encoded, **options))
    elif shared.elsewhere == "after":
        results.append(output_layer(layers.Dense(WIDTH)(results[0]), **options))
    elif shared.elsewhere == "each step" and not options:
        results.append(MaskedTimeDistributed(output_layer)(encoded))
    elif shared.elsewhere == "wrapper":
        results.append(layers.TimeDistributed(output_layer)(encoded))
    if shared.second is not None:
        parts = {
            "cell": (cell, lambda: layers.LSTMCell(WIDTH)),
            "output_layer": (output_layer, lambda: layers.Dense(VOCABULARY)),
            "embedding": (embedding, lambda: layers.Embedding(VOCABULARY, WIDTH)),
        }
        parts = {key: mine if key in shared.second else new() for key, (mine, new) in parts.items()}
        results.append(AutoregressiveDecoder(**parts, name="second")(target))
    if shared.generator:
        generator = TokenGenerator(decoder, end_token=2, max_steps=3)
        results.append(generator(target, initial_state=states, **memory)["scores"])
    model = keras.Model([source, target], results)
    randomize(model, np.random.default_rng(seed))
    return model


def data(steps=STEPS):
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCABULARY, (2, steps)).astype("int32") for _ in range(2)]


def run(model, x=None):
    return [to_numpy(y) for y in tree.flatten(model(data() if x is None else x))]


def assert_same(model, expected, variables, x=None):
    assert len(model.variables) == variables
    for received, wanted in zip(run(model, x), expected, strict=True):
        np.testing.assert_allclose(received, wanted, atol=1e-5)


def check(shared, path, file_of_weights=False):
    """Everything that is to keep the model, in this process."""
    model = make(shared)
    expected, count = run(model), len(model.variables)
    model.save(path)
    assert_same(keras.saving.load_model(path, safe_mode=True), expected, count)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    assert_same(clone, expected, count)
    other = make(shared, seed=1)
    keras_seqx.transfer_weights(path if file_of_weights else model, other)
    assert_same(other, expected, count)
    longer = keras_seqx.change_timesteps(model, STEPS + 2)
    assert_same(keras_seqx.change_timesteps(longer, STEPS), expected, count)
    assert len(longer.variables) == count
    assert longer.outputs[0].shape[1] == STEPS + 2


@pytest.mark.parametrize("name", CASES)
def test_a_shared_layer_stays_one(name, tmp_path):
    check(CASES[name], tmp_path / "model.keras", file_of_weights=True)


def test_whatever_is_shared_stays_one(tmp_path):
    @settings(settings.get_profile("few"))
    @given(shared=DRAWN)
    def draw(shared):
        check(shared, tmp_path / "model.keras")

    draw()


@given(shared=DRAWN)
def test_whatever_is_shared_has_as_many_variables(shared):
    """More draws than above, without a computation."""
    model = make(shared)
    again = make(shared)
    weights = model.get_weights()
    for copy in (again, keras.models.clone_model(model), keras_seqx.change_timesteps(model, STEPS + 2)):
        assert [v.shape for v in copy.variables] == [v.shape for v in model.variables]
        copy.set_weights(weights)


LOADER = """
import json, sys
import numpy as np
import keras
import tests.layers.test_shared_layers as module
folder, counts = sys.argv[1], []
for i in range(len(module.CASES)):
    model = keras.saving.load_model(f"{folder}/{i}.keras", safe_mode=True)
    np.savez(f"{folder}/{i}.npz", *module.run(model))
    counts.append(len(model.variables))
json.dump(counts, open(f"{folder}/counts.json", "w"))
"""


def test_loads_in_a_new_process(tmp_path):
    models = [make(shared) for shared in CASES.values()]
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    command = [sys.executable, "-c", LOADER, str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert json.loads((tmp_path / "counts.json").read_text()) == [len(model.variables) for model in models]
    for i, model in enumerate(models):
        with np.load(tmp_path / f"{i}.npz") as file:
            for name, expected in zip(file.files, run(model), strict=True):
                np.testing.assert_allclose(file[name], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["embedding of encoder and decoder", "custom tied output layer"])
def test_trains_and_keeps_its_optimizer(name, tmp_path):
    model = make(CASES[name])
    y = [np.ones(shape) for shape in ([2, *output.shape[1:]] for output in model.outputs)]
    model.compile(keras.optimizers.Adam(0.1), "mse")
    before = model.get_weights()
    model.fit(data(), y, epochs=1, verbose=0)
    assert all(abs(a - b).max() > 0 for a, b in zip(before[:1], model.get_weights()[:1], strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    longer = keras_seqx.change_timesteps(model, STEPS + 1)
    for other in (loaded, longer):
        assert len(other.optimizer.variables) == len(model.optimizer.variables)
        for a, b in zip(other.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_allclose(to_numpy(a.value), to_numpy(b.value), atol=1e-6)


def test_one_cell_twice_in_a_stack_comes_back_from_its_config():
    cell = keras.layers.GRUCell(3)
    decoder = AutoregressiveDecoder([cell, cell], keras.layers.Dense(3))
    again = AutoregressiveDecoder.from_config(json.loads(json.dumps(decoder.get_config())))
    assert again.cell[0] is again.cell[1]
    assert again.get_config() == decoder.get_config()
    apart = AutoregressiveDecoder.from_config(decoder.get_config())
    assert apart.cell[0] is not again.cell[0]


def test_layers_that_are_alike_stay_apart(tmp_path):
    """A decoder and a nested model with layers of one name and one configuration, which are not the same layer."""
    x, inner = keras.Input((STEPS, 3)), keras.Input((STEPS, 3))
    twins = [keras.layers.Dense(3, name="project") for _ in range(3)]
    nested = [keras.Model(inner, twin(inner), name=f"nested_{i}") for i, twin in enumerate(twins[:2])]
    decoder = AutoregressiveDecoder(keras.layers.LSTMCell(3), twins[2])
    model = keras.Model(x, decoder(nested[1](nested[0](x))))
    randomize(model, np.random.default_rng(0))
    model.save(tmp_path / "model.keras")
    values = normal(0, 2, STEPS, 3)
    assert_same(keras.saving.load_model(tmp_path / "model.keras"), run(model, values), len(model.variables), values)


@pytest.mark.parametrize("output", ["tied", "reversible"])
def test_a_tied_output_layer_equals_numpy(output):
    kind = keras.layers.ReversibleEmbedding if output == "reversible" else keras.layers.Embedding
    embedding = kind(VOCABULARY, WIDTH)
    output_layer = embedding if output == "reversible" else TiedLogits(embedding)
    decoder = AutoregressiveDecoder(keras.layers.SimpleRNNCell(WIDTH), output_layer, embedding=embedding)
    decoder(data()[0])
    randomize(decoder, np.random.default_rng(0))
    kernel, recurrent, bias = decoder.cell.get_weights()
    table = embedding.get_weights()[0]
    for ids, steps in ((data()[0], STEPS), (data()[0][:, :1], 4)):
        expected = []
        for row in ids:
            state, logits = np.zeros(WIDTH), []
            for t in range(steps):
                token = row[t] if t < len(row) else logits[-1].argmax()
                state = np.tanh(table[token] @ kernel + state @ recurrent + bias)
                logits.append(state @ table.T)
            expected.append(logits)
        np.testing.assert_allclose(to_numpy(decoder(ids, steps=steps)), expected, atol=1e-5)


def test_the_mask_of_a_reversible_embedding():
    embedding = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH, mask_zero=True)
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(WIDTH), embedding, embedding=embedding)
    x = keras.Input((None,), dtype="int32")
    model = keras.Model(x, decoder(x))
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ids, padded = np.array([[3, 4, 1]], "int32"), np.array([[3, 4, 1, 0, 0]], "int32")
    losses = [model.evaluate(tokens, tokens, verbose=0) for tokens in (ids, padded)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


def test_a_reversible_embedding_of_another_dtype():
    embedding = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH, dtype="mixed_bfloat16", reverse_dtype="float32")
    cell = keras.layers.SimpleRNNCell(WIDTH, dtype="mixed_bfloat16")
    decoder = AutoregressiveDecoder(cell, embedding, embedding=embedding, dtype="mixed_bfloat16")
    x = keras.Input((None,), dtype="int32")
    y = decoder(x, steps=3)
    outputs = keras.Model(x, y)(data()[0][:, :1])
    assert keras.backend.standardize_dtype(outputs.dtype) == y.dtype == "float32"


def test_a_reversible_embedding_of_another_width_raises():
    embedding = keras.layers.ReversibleEmbedding(VOCABULARY, WIDTH)
    decoder = AutoregressiveDecoder(keras.layers.GRUCell(WIDTH + 1), embedding, embedding=embedding)
    with pytest.raises(ValueError, match=r"AutoregressiveDecoder: `output_layer` must be an embedding with .*=5"):
        decoder(data()[0])
