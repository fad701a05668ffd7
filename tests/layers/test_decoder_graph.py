"""The compiled program does not grow with the steps."""

import keras
import numpy as np
import pytest

from keras_seqx import AutoregressiveDecoder
from tests.cases import BACKEND, FEATURES


def decoder(steps):
    keras.utils.clear_session()
    layer = AutoregressiveDecoder(
        [keras.layers.LSTMCell(4), keras.layers.GRUCell(4)], keras.layers.Dense(FEATURES), steps=steps
    )
    layer(np.zeros((2, 1, FEATURES), "float32"), steps=1)
    return layer


def tensorflow_nodes(steps):
    import tensorflow as tf

    layer = decoder(steps)

    @tf.function
    def train(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True))
        return tape.gradient(loss, [v.value for v in layer.trainable_variables])

    graph = train.get_concrete_function(tf.zeros((2, 1, FEATURES))).graph.as_graph_def()
    return len(graph.node) + sum(len(f.node_def) for f in graph.library.function)


def jax_equations(steps):
    import jax

    layer = decoder(steps)

    def train(values, x):
        with keras.StatelessScope(list(zip(layer.variables, values, strict=True))):
            return layer(x, training=True).sum()

    values = [v.value for v in layer.variables]
    return str(jax.make_jaxpr(jax.grad(train, allow_int=True))(values, np.zeros((2, 1, FEATURES), "f4"))).count(" = ")


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no graph here: it runs every step eagerly")
def test_program_size_does_not_depend_on_the_steps():
    size = {"tensorflow": tensorflow_nodes, "jax": jax_equations}[BACKEND]
    assert size(5) == size(80)
