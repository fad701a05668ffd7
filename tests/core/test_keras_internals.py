"""What each function of `keras_internals` relies on, on the Keras that is installed."""

import keras
import numpy as np

from keras_seqx._core.keras_internals import class_weight_of_fit


class Data(keras.utils.PyDataset):
    """Notes the class weights that it finds where Keras reads `workers`."""

    found: list

    @property
    def workers(self):
        self.found.append(class_weight_of_fit())
        return 1

    use_multiprocessing = property(lambda self: False)

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return np.zeros((2, 1), "float32"), np.zeros(2, "int32")


def test_class_weight_of_fit():
    data = Data()
    data.found = []
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(data, class_weight={0: 2.0}, verbose=0)
    assert {0: 2.0} in data.found
    data.found.clear()
    model.fit(data, verbose=0)
    model.evaluate(data, verbose=0)
    assert data.workers == 1
    assert data.found
    assert not any(data.found)
