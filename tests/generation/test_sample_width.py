"""Samplers of one's own, whose samples are narrower than the outputs of the decoder."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_seqx import AutoregressiveDecoder, Sampler
from keras_seqx.testing.execution import to_numpy
from tests.cases import MODES, Reference, normal, randomize
from tests.reference.decoder import STEPS as CELL_STEPS

STEPS = 5


@keras.saving.register_keras_serializable(package="keras_seqx_tests")
class TwoNormals(Sampler):
    """Draws from a mixture of two normal distributions: logits (2), means (2) and log-deviations (2) for one value."""

    def sample_width(self, output_width):
        return 1

    def noise(self, batch_size, steps, output_width, seed):
        return keras.random.normal((batch_size, steps, 2), seed=seed)

    def __call__(self, outputs, noise=None):
        logits, means, log_std = outputs[..., :2], outputs[..., 2:4], outputs[..., 4:]
        first = logits[..., :1] - logits[..., 1:] > noise[..., :1]
        values = means + ops.exp(log_std) * noise[..., 1:]
        return ops.where(first, values[..., :1], values[..., 1:])


class Fixed(TwoNormals):
    """The same with numbers that are known."""

    def noise(self, batch_size, steps, output_width, seed):
        return ops.convert_to_tensor(normal(5, 3, steps, 2))


def build(sampler, **kwargs):
    decoder = AutoregressiveDecoder(
        keras.layers.GRUCell(4), keras.layers.Dense(6), sampler=sampler, steps=STEPS, **kwargs
    )
    decoder.build((None, None, 1))
    randomize(decoder, np.random.default_rng(0))
    return decoder


@pytest.mark.parametrize("mode", MODES)
def test_a_mixture_is_drawn_from_and_fed_back(mode):
    decoder, start, noise = build(Fixed()), normal(1, 3, 1, 1), normal(5, 3, STEPS, 2)
    outputs = to_numpy(MODES[mode](decoder, start))
    ((kind, weights),) = Reference.of("gru", decoder).cells
    kernel, bias = decoder.output_layer.get_weights()
    for row in range(3):
        x, state = start[row : row + 1, 0], [np.zeros((1, 4))]
        for t in range(STEPS):
            hidden, state = CELL_STEPS[kind](weights, x, state)
            y = (hidden @ kernel + bias)[0]
            np.testing.assert_allclose(outputs[row, t], y, atol=1e-5)
            u, n = noise[row, t]
            component = 0 if y[0] - y[1] > u else 1
            x = np.array([[y[2 + component] + np.exp(y[4 + component]) * n]])


def test_trains_with_its_own_samples_and_comes_back_from_a_file(tmp_path):
    x = keras.Input((None, 1))
    decoder = AutoregressiveDecoder(
        keras.layers.GRUCell(4), keras.layers.Dense(6), sampler=TwoNormals(), teacher_forcing=0.5, seed=1
    )
    model = keras.Model(x, decoder(x))
    model.compile("sgd", "mse", jit_compile=False if keras.backend.backend() != "jax" else "auto")
    model.fit(normal(0, 4, 5, 1), normal(1, 4, 5, 6), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    data = normal(2, 3, 5, 1)
    np.testing.assert_allclose(loaded.predict(data, verbose=0), model.predict(data, verbose=0), atol=1e-6)


class Silent(TwoNormals):
    """Does not say how wide its samples are."""

    sample_width = Sampler.sample_width


class Wrong(TwoNormals):
    """Says that its samples are as wide as the inputs, and returns others."""

    def __call__(self, outputs, noise=None):
        return outputs[..., :2]


class Halves(Sampler):
    def sample_width(self, output_width):
        return output_width // 3


ERRORS = {
    "nothing said": (Silent(), "define `Silent.sample_width(output_width)`"),
    "another width": (Halves(), "its samples' 2 by `Halves.sample_width(6)`"),
    "another width than said": (Wrong(), "Wrong: `sample_width` must be the width of what the sampler returns"),
}


@pytest.mark.parametrize(("sampler", "words"), ERRORS.values(), ids=ERRORS)
def test_errors_name_the_width_of_a_sample(sampler, words):
    with pytest.raises(ValueError, match="must be") as caught:
        build(sampler)(normal(1, 3, 1, 1))
    assert words in str(caught.value)
