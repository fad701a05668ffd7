"""Every layer in other runtimes: a SavedModel, ONNX, LiteRT and an ExportedProgram answer as Keras does, or refuse.

The table is `REFUSED`, and all that is not in it works; axes are open where the format can keep them open.
"""

import importlib.util

import keras
import numpy as np
import pytest
from keras import tree

from keras_seqx import (
    AttentionCell,
    AutoregressiveDecoder,
    BeamSearch,
    MaskedTimeDistributed,
    MinLength,
    RepeatToLength,
    RepetitionPenalty,
    Sampling,
    SequenceMask,
    StopThreshold,
    TokenGenerator,
    TransformerDecoderCell,
)
from tests.cases import BACKEND, normal, randomize

B, T, D, VOCABULARY, END = 3, 4, 3, 7, 2
LENGTHS = np.array([4, 1, 2], "int32")
IDS = np.random.default_rng(2).integers(1, VOCABULARY, (B, T)).astype("int32")
FRAMES = normal(1, B, T, D)


def frames(length):
    return keras.Input((length, D), name="frames")


def lengths():
    return keras.Input((), dtype="int32", name="lengths")


def decoder(**kwargs):
    return AutoregressiveDecoder([keras.layers.LSTMCell(4)], keras.layers.Dense(D), **kwargs)


def generator(search, length, **kwargs):
    embedding, cell = keras.layers.Embedding(VOCABULARY, 4), keras.layers.GRUCell(4)
    speaker = AutoregressiveDecoder(cell, keras.layers.Dense(VOCABULARY), embedding=embedding)
    ids = keras.Input((length,), dtype="int32", name="ids")
    return [ids], TokenGenerator(speaker, end_token=END, max_steps=5, search=search, seed=1, **kwargs)(ids), [IDS]


def sequence_mask(length):
    x, n = frames(length), lengths()
    return [x, n], keras.layers.GlobalAveragePooling1D()(SequenceMask()([x, n])), [FRAMES, LENGTHS]


def repeat_to_length(length):
    vector, x = keras.Input((2,), name="vector"), frames(length)
    return [vector, x], RepeatToLength()([vector, x]), [normal(3, B, 2), FRAMES]


def time_distributed(length):
    x, n = frames(length), lengths()
    return [x, n], MaskedTimeDistributed(keras.layers.Dense(2))(SequenceMask()([x, n])), [FRAMES, LENGTHS]


def forced(length):
    x = frames(length)
    return [x], decoder()(x), [FRAMES]


def forced_and_masked(length):
    x, n = frames(length), lengths()
    return [x, n], decoder()(SequenceMask()([x, n])), [FRAMES, LENGTHS]


def running_free(length):
    start = keras.Input((1, D), name="start")
    return [start], decoder(steps=6)(start), [FRAMES[:, :1]]


def after_a_prompt(length):
    x = frames(length)
    return [x], decoder(steps=7)(x), [FRAMES]


def stopping(length):
    start = keras.Input((1, D), name="start")
    pooled = keras.layers.GlobalAveragePooling1D()  # which reads the mask
    outputs = decoder(steps=6, stop=StopThreshold(0.1))(start)
    return [start], {"outputs": outputs, "pooled": pooled(outputs)}, [FRAMES[:, :1]]


def attending(length):
    start, memory = keras.Input((1, D), name="start"), keras.Input((length, D), name="memory")
    cell = AttentionCell(keras.layers.LSTMCell(4))
    outputs = AutoregressiveDecoder(cell, keras.layers.Dense(D), steps=5)(start, memory=memory)
    return [start, memory], outputs, [FRAMES[:, :1], FRAMES]


def transformer_cell(length, activation="relu"):
    start = keras.Input((1, 4), name="start")
    cell = TransformerDecoderCell(4, 2, max_length=7, activation=activation)
    return [start], AutoregressiveDecoder(cell, keras.layers.Dense(4), steps=6)(start), [normal(6, B, 1, 4)]


PROCESSORS = [MinLength(2, END), RepetitionPenalty(1.3)]
LAYERS = {
    "SequenceMask": sequence_mask,
    "RepeatToLength": repeat_to_length,
    "MaskedTimeDistributed": time_distributed,
    "AutoregressiveDecoder, forced": forced,
    "AutoregressiveDecoder, masked": forced_and_masked,
    "AutoregressiveDecoder, free": running_free,
    "AutoregressiveDecoder, prompt": after_a_prompt,
    "AutoregressiveDecoder, stop": stopping,
    "AttentionCell": attending,
    "TransformerDecoderCell": transformer_cell,
    "TransformerDecoderCell, gelu": lambda length: transformer_cell(length, "gelu"),
    "TokenGenerator, greedy": lambda length: generator("greedy", length, processors=PROCESSORS),
    "TokenGenerator, sampling": lambda length: generator(Sampling(top_k=3), length),
    "TokenGenerator, beams": lambda length: generator(BeamSearch(3), length, processors=PROCESSORS, force_end=True),
}


def saved_model(model, folder, inputs, signature):
    model.export(folder / "model", verbose=False, **signature)
    import tensorflow as tf

    tensors = [tf.constant(x) for x in inputs]
    served = tf.saved_model.load(str(folder / "model"))  # which holds the variables
    found = served.serve(tensors if len(tensors) > 1 else tensors[0])
    return [x.numpy() for x in tree.flatten(found)]


def onnx(model, folder, inputs, signature):
    model.export(folder / "model.onnx", format="onnx", verbose=False, **signature)
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    return session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})


def litert(model, folder, inputs, signature):
    model.export(folder / "model.tflite", format="litert", verbose=False, **signature)
    import tensorflow as tf

    # TensorFlow's own interpreter, which has the operations that a loop over time is made of there.
    run = tf.lite.Interpreter(str(folder / "model.tflite")).get_signature_runner()
    found = run(**{i.name: x for i, x in zip(model.inputs, inputs, strict=True)})
    names = sorted(found, key=lambda name: (len(name), name))
    return [found[name] for name in names] if not isinstance(model.output, dict) else [found[k] for k in sorted(found)]


def exported_program(model, folder, inputs, signature):
    model.export(folder / "model.pt2", format="torch", verbose=False, **signature)
    import torch

    tensors = [torch.tensor(x) for x in inputs]
    found = torch.export.load(folder / "model.pt2").module()(tensors if len(tensors) > 1 else tensors[0])
    return [x.detach().numpy() for x in tree.flatten(found)]


# What a format needs, by backend; what is absent from the environment is skipped.
FORMATS = {
    "tensorflow": {saved_model: (), onnx: ("tf2onnx", "onnxruntime"), litert: ()},
    "jax": {saved_model: ("tensorflow",)},
    "torch": {onnx: ("onnxscript", "onnxruntime"), exported_program: ()},
}[BACKEND]
if keras.__version__.startswith("3.12."):  # which has the first two formats alone
    FORMATS = {write: packages for write, packages in FORMATS.items() if write in (saved_model, onnx)}
# Torch writes the program of one shape, and LiteRT takes Keras' own RNN layers in one shape alone.

RANDOM = (RuntimeError, "TokenGenerator: `search` must be one that draws no numbers in an export to ONNX or LiteRT")
EARLY = (RuntimeError, "a loop that ends when all rows have cannot be exported from torch")
# Keras tries TorchScript where its first way failed.
TORCHSCRIPT = (RuntimeError, "a loop over time cannot be traced by TorchScript")
GELU = (RuntimeError, 'TransformerDecoderCell: `activation` must be another than "gelu"')
LISTS = (RuntimeError, "keras_seqx: a loop over time cannot be exported to LiteRT")
LOOPS = [
    "AutoregressiveDecoder, masked",
    "AutoregressiveDecoder, free",
    "AutoregressiveDecoder, prompt",
    "AutoregressiveDecoder, stop",
    "AttentionCell",
    "TransformerDecoderCell",
    "TransformerDecoderCell, gelu",
]
LENGTH = (ValueError, "AutoregressiveDecoder: `inputs` must be of a known length")
REFUSED = {
    "tensorflow": {
        ("TokenGenerator, sampling", onnx): RANDOM,
        ("TokenGenerator, sampling", litert): RANDOM,
        ("TransformerDecoderCell, gelu", onnx): GELU,
        **{(name, litert): LISTS for name in LOOPS},
    },
    "jax": {("AutoregressiveDecoder, prompt", saved_model): LENGTH},
    "torch": {
        **{(name, exported_program): EARLY for name in LAYERS if "Token" in name or "stop" in name},
        **{(name, onnx): TORCHSCRIPT for name in LAYERS if "Token" in name or "stop" in name},
    },
}[BACKEND]


def check_scores(decoder, lengths, scores, tokens):
    """The scores are the log-probabilities of the tokens."""
    logits = keras.ops.convert_to_numpy(decoder(np.concatenate([IDS, tokens], axis=1)))[:, T - 1 : -1]
    logits = logits.astype("float64")
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(logp, tokens[..., None], axis=-1)[..., 0]
    valid = np.arange(tokens.shape[1]) < lengths[:, None]
    np.testing.assert_allclose(scores, (chosen * valid).sum(1), atol=1e-4)
    assert lengths.max() > 1


@pytest.mark.parametrize("write", FORMATS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("name", LAYERS)
def test_another_runtime_answers_as_keras_does(name, write, tmp_path):
    for package in FORMATS[write]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    fixed = BACKEND == "torch" or write is litert
    inputs, outputs, data = LAYERS[name](T if fixed else None)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs)
    randomize(model, np.random.default_rng(0))
    expected = model.predict(data if len(data) > 1 else data[0], verbose=0)
    signature = {}
    if fixed:
        specs = [
            keras.InputSpec(shape=x.shape, dtype=str(x.dtype), name=i.name) for x, i in zip(data, inputs, strict=True)
        ]
        signature = {"input_signature": [specs] if len(specs) > 1 else specs}
    if (name, write) in REFUSED:
        error, words = REFUSED[name, write]
        with pytest.raises(error) as caught:
            write(model, tmp_path, data, signature)
        assert words in str(caught.value)
        assert not [f for f in tmp_path.rglob("*") if f.is_file()]
        return
    found = write(model, tmp_path, data, signature)
    if "sampling" in name:  # the seed moves on with every call: what is drawn is checked by its score
        check_scores(model.layers[-1].decoder, *found)
        return
    for received, value in zip(found, tree.flatten(expected), strict=True):
        np.testing.assert_allclose(received, value, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(BACKEND != "torch", reason="TorchScript is torch's")
def test_torchscript_is_refused(tmp_path):
    """Keras uses it where a shape is open; it writes down what the example at hand did."""
    inputs, outputs, _ = generator("greedy", T)
    model = keras.Model(inputs[0], outputs)
    model.predict(IDS, verbose=0)
    with pytest.raises(RuntimeError, match="a loop over time cannot be traced by TorchScript"):
        model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    assert not list(tmp_path.iterdir())
