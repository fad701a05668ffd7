"""A process of test_replicas.py: trains small models on one replica, or on two, and saves their weights.

`replicas_worker.py FOLDER` has both replicas in one process, `replicas_worker.py FOLDER ADDRESS INDEX` has one of them.
"""

import json
import os
import sys
import traceback

BACKEND = os.environ["KERAS_BACKEND"]
FOLDER, ADDRESS, INDEX = (*sys.argv[1:], None, None)[:3]
if BACKEND == "tensorflow" and ADDRESS is not None:
    first, second = ADDRESS.split(",")
    task = {"type": "worker", "index": int(INDEX)}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": [first, second]}, "task": task})

import keras  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from keras_seqx import LengthBucketing  # noqa: E402
from tests.data.replicas import CASES, LENGTHS, RATE, WEIGHTS, sequences  # noqa: E402


def make_data(case, shards=1, index=0):
    x, y = sequences()
    options = {"normalize_weights": case.normalized, "remainder": case.remainder, "shuffle": False, "buckets": 1}
    weights = WEIGHTS if case.weighted else None
    targets = y if case.steps else [row.sum() for row in y]
    options |= {"num_shards": shards, "shard_index": index}
    return LengthBucketing(x, targets, weights, batch_size=4 // shards, **options)


def make_model(case):
    inputs = keras.Input((None, 2))
    hidden = keras.layers.Masking()(inputs)
    if not case.steps:
        hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    return keras.Model(inputs, keras.layers.Dense(1, kernel_initializer="zeros")(hidden))


def train(case, shards=1, index=0):
    """Returns the weights after two epochs of `fit`."""
    model = make_model(case)
    model.compile(keras.optimizers.SGD(RATE), keras.losses.MeanSquaredError(reduction=case.reduction))
    model.fit(make_data(case, shards, index), epochs=2, shuffle=False, verbose=0)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def train_in_tensorflow():
    import tensorflow as tf

    if ADDRESS is None:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    else:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        by = train if ADDRESS is None else lambda case: train_by_hand(case, strategy)
        return {name: by(case) for name, case in CASES.items()}


def train_by_hand(case, strategy):
    """Trains as `fit` does, which Keras 3.15 ends with an error under this strategy, whatever the data."""
    import tensorflow as tf

    model, optimizer = make_model(case), keras.optimizers.SGD(RATE)
    optimizer.build(model.trainable_variables)
    loss, data = keras.losses.MeanSquaredError(reduction=case.reduction), make_data(case)
    specs = [tf.TensorSpec([None, *part.shape[1:]], part.dtype) for part in data[0]]
    batches = tf.data.Dataset.from_generator(lambda: iter(data), output_signature=tuple(specs))
    batches = strategy.experimental_distribute_dataset(batches)

    def step(x, y, weights):
        with tf.GradientTape() as tape:
            value = loss(y, model(x), weights)
        optimizer.apply(tape.gradient(value, [v.value for v in model.trainable_variables]), model.trainable_variables)

    compiled = tf.function(lambda *batch: strategy.run(step, args=batch))
    for _ in range(2):
        for batch in batches:
            compiled(*batch)
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def train_in_jax():
    import jax

    if ADDRESS is not None:
        keras.distribution.initialize(ADDRESS, num_processes=2, process_id=int(INDEX))
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        for shards in (1, 2):  # and Keras' own on top
            with pytest.raises(ValueError, match="auto_shard_dataset"):
                train(CASES["steps"], shards, int(INDEX) % shards)
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    assert jax.device_count() == 2
    if ADDRESS is None:
        return {name: train(case) for name, case in CASES.items() if case.remainder == "fill"}
    return {name: train(case, 2, int(INDEX)) for name, case in CASES.items()}


def train_in_torch():
    import torch

    torch.distributed.init_process_group("gloo", f"tcp://{ADDRESS}", rank=int(INDEX), world_size=2)
    made = {}
    for name, case in CASES.items():
        model = make_model(case)
        replica = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
        loss = keras.losses.MeanSquaredError(reduction=case.reduction)
        data = make_data(case, 2, int(INDEX))
        for _ in range(2):
            for batch in data:
                x, y, weights = keras.tree.map_structure(torch.as_tensor, batch)
                optimizer.zero_grad()
                # torch averages the gradients of the replicas, where a sum needs theirs added up.
                scale = 2 if case.reduction == "sum" else 1
                (scale * loss(y, replica(x), weights)).backward()
                optimizer.step()
        made[name] = np.concatenate([weight.ravel() for weight in model.get_weights()])
    torch.distributed.destroy_process_group()
    return made


if __name__ == "__main__":
    try:
        assert len(LENGTHS) % 4
        made = {"tensorflow": train_in_tensorflow, "jax": train_in_jax, "torch": train_in_torch}[BACKEND]()
        np.savez(f"{FOLDER}/replica{INDEX or 0}.npz", **made)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # the regular way out waits for the other process, which may wait for this one
