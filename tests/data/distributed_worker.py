"""A process of test_distributed.py: trains, and saves what came of it.

`distributed_worker.py FOLDER` is on its own, with two devices: it trains on one of them, then again on both.
`distributed_worker.py FOLDER ADDRESS INDEX` is one of two processes that train together, with a device each.
"""

import os
import sys
import traceback

import keras
import numpy as np

from keras_seqx import LengthBucketing, SequenceMask

BATCH = 8  # of all shards and devices together
EPOCHS = 3


def make_data(num_shards=1, shard_index=0, seed=3):
    """15 sequences to 4 steps, 17 to 10: of the last batches, shard 1 of 2 lacks one row, and then all rows."""
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(1, 4, 15, endpoint=True), *rng.integers(5, 10, 17, endpoint=True)]
    x = [rng.normal(size=(length, 3)) for length in lengths]
    y = [row[:, 0].sum() for row in x]
    return LengthBucketing(
        x,
        y,
        batch_size=BATCH // num_shards,
        buckets=(4, 10),
        remainder="fill",
        seed=seed,
        lengths_as_input="lengths",
        num_shards=num_shards,
        shard_index=shard_index,
    )


def train(data):
    """Returns what training, evaluation and prediction come to, as arrays."""
    keras.utils.set_random_seed(0)
    inputs, lengths = keras.Input((None, 3), name="inputs"), keras.Input((), dtype="int32", name="lengths")
    outputs = keras.layers.Dense(1)(keras.layers.GRU(4)(SequenceMask()([inputs, lengths])))
    model = keras.Model({"inputs": inputs, "lengths": lengths}, outputs)
    # SGD, as Adam would come to the same with gradients that are a multiple of what they should be.
    optimizer = keras.optimizers.SGD(0.03, momentum=0.9)
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model.compile(optimizer, loss, weighted_metrics=["mae"])
    results = {"initial": flat(model)}
    history = model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0).history
    results |= {"weights": flat(model), "losses": history["loss"], "errors": history["mae"]}
    results["evaluation"] = model.evaluate(data, verbose=0)
    results["predictions"] = data.predict(model, verbose=0)
    results["devices"] = len(model.weights[0].value.sharding.device_set)
    return results


def flat(model):
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def main(folder, address=None, index=None):
    if address is None:
        np.savez(f"{folder}/alone.npz", **train(make_data()))
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        np.savez(f"{folder}/devices.npz", **train(make_data()))
        return
    index = int(index)
    keras.distribution.initialize(address, num_processes=2, process_id=index)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    np.savez(f"{folder}/shard{index}.npz", **train(make_data(2, index)))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the regular way out waits for the other process, which may wait for this one
