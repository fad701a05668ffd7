"""Write the legacy model files of this folder: python make_legacy.py, under tensorflow==2.15.1 (Keras 2.15).

Each case is NAME.h5 (whole model), NAME.weights.h5 (weights alone, the old by-layer layout) and NAME.npz with the
model's inputs `x0, x1, ...` and outputs `y`, at the timesteps it was built for.
"""

import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.keras import Input, Model, Sequential
from tensorflow.keras import layers as L

HERE = pathlib.Path(__file__).resolve().parent


def save(name, model, *inputs):
    model.save(HERE / f"{name}.h5")
    model.save_weights(str(HERE / f"{name}.weights.h5"), save_format="h5")
    arrays = {f"x{i}": x for i, x in enumerate(inputs)}
    np.savez(HERE / f"{name}.npz", y=model.predict(list(inputs), verbose=0), **arrays)


def main():
    tf.keras.utils.set_random_seed(7)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(4, 6, 5)).astype("float32")

    many_to_many = Sequential(
        [
            Input((None, 5)),
            L.LSTM(8, return_sequences=True),
            L.LSTM(4, return_sequences=True),
            L.TimeDistributed(L.Dense(2, activation="sigmoid")),
        ]
    )
    save("many_to_many", many_to_many, x)

    i = Input((6, 5))
    h = L.Bidirectional(L.LSTM(6))(L.Masking(0.0)(i))
    o = L.TimeDistributed(L.Dense(3))(L.GRU(7, return_sequences=True)(L.RepeatVector(6)(h)))
    repeat_vector = Model(i, o)
    repeat_vector.compile("adam", "mse")
    repeat_vector.fit(x, rng.normal(size=(4, 6, 3)), verbose=0)
    save("bidirectional_repeat_vector", repeat_vector, x)

    stateful = Sequential(
        [L.LSTM(5, stateful=True, batch_input_shape=(4, 6, 5), return_sequences=True), L.GRU(3, reset_after=False)]
    )
    save("stateful_reset_before", stateful, x)

    i = Input((None, 5))
    _, h, c = L.LSTM(6, return_state=True, name="encoder")(i)
    start = Input((1, 5))
    lstm = L.LSTM(6, return_sequences=True, return_state=True, name="decoder_lstm")
    dense = L.Dense(5, name="decoder_dense")
    frame, state, frames = start, [h, c], []
    for _ in range(9):
        out, *state = lstm(frame, initial_state=state)
        frame = dense(out)
        frames.append(frame)
    unrolled = Model([i, start], L.Concatenate(axis=1)(frames))
    save("unrolled_decoder", unrolled, x, rng.normal(size=(4, 1, 5)).astype("float32"))


if __name__ == "__main__":
    main()
