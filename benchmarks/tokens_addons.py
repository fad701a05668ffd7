"""The side of TensorFlow Addons in `tokens.py`: run by an interpreter that has it, TensorFlow 2.15 and no Keras 3."""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

START = 1


def build(w, rows, vocabulary, beams, steps):
    """Returns the decoding function of the weights `w`."""
    units = w["query_kernel"].shape[0]

    def constant(name):
        return tf.keras.initializers.Constant(w[name])

    cells = [
        tf.keras.layers.LSTMCell(
            units,
            kernel_initializer=constant(f"lstm_{i}_kernel"),
            recurrent_initializer=constant(f"lstm_{i}_recurrent"),
            bias_initializer=constant(f"lstm_{i}_bias"),
            unit_forget_bias=False,
        )
        for i in range(2)
    ]
    mechanism = tfa.seq2seq.BahdanauAttention(units)
    attention_layer = tf.keras.layers.Dense(
        units, activation="tanh", use_bias=False, kernel_initializer=constant("output_kernel")
    )
    cell = tfa.seq2seq.AttentionWrapper(
        tf.keras.layers.StackedRNNCells(cells), mechanism, attention_layer=attention_layer
    )
    dense = tf.keras.layers.Dense(
        vocabulary, kernel_initializer=constant("dense"), bias_initializer=constant("dense_bias")
    )
    embedding, start = tf.Variable(w["embedding"]), tf.fill([rows], START)
    never = vocabulary  # no token ends a sequence
    if beams == 1:
        sampler = tfa.seq2seq.GreedyEmbeddingSampler()
        decoder = tfa.seq2seq.BasicDecoder(cell, sampler, dense, maximum_iterations=steps)
    else:
        decoder = tfa.seq2seq.BeamSearchDecoder(cell, beams, output_layer=dense, maximum_iterations=steps)

    def setup(memory):
        if beams > 1:
            memory = tfa.seq2seq.tile_batch(memory, beams)
        mechanism.setup_memory(memory)
        state = cell.get_initial_state(batch_size=rows * beams, dtype=tf.float32)
        return {"start_tokens": start, "end_token": never, "initial_state": state}

    @tf.function
    def generate(memory):
        outputs, _, _ = decoder(embedding, **setup(memory))
        return outputs.sample_id if beams == 1 else outputs.predicted_ids[:, :, 0]

    # The mechanism's weights exist once it has seen a memory and a query.
    mechanism.setup_memory(tf.constant(w["memory"]))
    mechanism.memory_layer.set_weights([w["memory_kernel"]])
    mechanism([tf.zeros((rows, units)), tf.zeros((rows, w["memory"].shape[1]))])
    mechanism.query_layer.set_weights([w["query_kernel"]])
    mechanism.attention_v.assign(w["vector"])
    memory = tf.constant(w["memory"])
    return lambda: generate(memory).numpy()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="npz file of the weights and the memory")
    parser.add_argument("--case", type=json.loads, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    rows, vocabulary, beams = (args.case[key] for key in ("rows", "vocabulary", "beams"))
    steps = 60
    with np.load(args.weights) as file:
        w = {name: file[name] for name in file.files}
    tf.constant(0.0) + 1
    print(json.dumps({"tensorflow-addons": tfa.__version__, "its tensorflow": tf.__version__}), flush=True)

    began = time.perf_counter()
    call = build(w, rows, vocabulary, beams, steps)
    built = time.perf_counter()
    tokens = call()
    ended = time.perf_counter()
    times: list[float] = []
    repeats = (3, 3) if args.quick else (5, 51)
    first = time.perf_counter()
    call()
    while len(times) < repeats[1] and (len(times) < repeats[0] or time.perf_counter() - first < 6.0):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    for measure, values in {
        "first result": [ended - began],
        "first call": [ended - built],
        "compilation": [ended - built - statistics.median(times)],
        "first token": times,
        "tokens a second": [rows * steps / t for t in times],
        "peak memory": [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6],
        "check": [float(np.sum(tokens * np.arange(1, steps + 1)))],
    }.items():
        print(json.dumps({"measure": measure, "values": values}), flush=True)


if __name__ == "__main__":
    main()
