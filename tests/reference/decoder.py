"""The decoder's contract as a plain loop over rows and steps, in NumPy alone.

Weights come as lists of arrays in Keras' order; gates as in Keras' documentation of each cell.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_rnn(weights, x, states):
    kernel, recurrent, bias = weights
    h = np.tanh(x @ kernel + states[0] @ recurrent + bias)
    return h, [h]


def lstm(weights, x, states):
    kernel, recurrent, bias = weights
    i, f, g, o = np.split(x @ kernel + states[0] @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, [h, c]


def gru(weights, x, states):
    kernel, recurrent, bias = weights
    xz, xr, xh = np.split(x @ kernel + bias[0], 3, axis=-1)
    hz, hr, hh = np.split(states[0] @ recurrent + bias[1], 3, axis=-1)
    z = sigmoid(xz + hz)
    candidate = np.tanh(xh + sigmoid(xr + hr) * hh)
    h = z * states[0] + (1 - z) * candidate
    return h, [h]


def leaky(weights, x, states):
    """A cell whose output is neither of its states: two leaky averages, read out by a third matrix."""
    kernel, readout = weights
    drive = np.tanh(x @ kernel)
    slow, fast = 0.9 * states[0] + 0.1 * drive, 0.5 * states[1] + 0.5 * drive
    return np.concatenate([slow, fast], axis=-1) @ readout, [slow, fast]


def window(weights, x, states):
    """A cell whose state is of rank 3: the last three inputs, summed with weights."""
    (kernel,) = weights
    state = np.concatenate([states[0][:, 1:], (x @ kernel)[:, None]], axis=1)
    return state[:, 0] + 2 * state[:, 1] - state[:, 2], [state]


def plain(weights, x, states):
    kernel, recurrent = weights
    h = sigmoid(x @ kernel + states[0] @ recurrent)
    return h, [h]


STEPS = {"simple_rnn": simple_rnn, "lstm": lstm, "gru": gru, "leaky": leaky, "window": window, "plain": plain}


def decode(cells, output, inputs, states, steps, use=None, covariates=None):
    """Runs the loop.

    Args:
        cells: list of `(kind, weights)`.
        output: `(kernel, bias)` of a dense output layer, or None.
        inputs: (B, T0, D) forced inputs.
        states: list of lists, the states of each cell.
        steps: number of outputs.
        use: (B, T0) booleans, where an input is read; all by default.
        covariates: (B, steps, C) or None.

    Returns:
        Outputs (B, steps, D), and the last states as one flat list.
    """
    rows, last = [], []
    for b in range(len(inputs)):
        own = [[s[b : b + 1] for s in cell] for cell in states]
        sample, row = np.zeros_like(inputs[b : b + 1, 0]), []
        for t in range(steps):
            forced = t < inputs.shape[1] and (use is None or use[b, t])
            x = inputs[b : b + 1, t] if forced else sample
            if covariates is not None:
                x = np.concatenate([x, covariates[b : b + 1, t]], axis=-1)
            for i, (kind, weights) in enumerate(cells):
                x, own[i] = STEPS[kind](weights, x, own[i])
            sample = x if output is None else x @ output[0] + output[1]
            row.append(sample)
        rows.append(np.concatenate(row))
        last.append([s for cell in own for s in cell])
    return np.stack(rows), [np.concatenate(parts) for parts in zip(*last, strict=True)]


def decode_until(stops, cells, output, inputs, states, steps, use=None, covariates=None):
    """Runs the loop; a row ends with the first output for which `stops`, once it has read its own inputs.

    Returns:
        Outputs (B, steps, D), the last of a row repeated after its end; the states at each row's end, one flat list;
        and the lengths (B,), how many outputs each row has.
    """
    outputs, _ = decode(cells, output, inputs, states, steps, use, covariates)
    lengths, last = [], []
    for b in range(len(inputs)):
        given = inputs.shape[1] if use is None else 1 + max((t for t in range(inputs.shape[1]) if use[b, t]), default=0)
        length = next((t + 1 for t in range(given - 1, steps) if stops(outputs[b, t])), steps)
        outputs[b, length:] = outputs[b, length - 1]
        own, known = slice(b, b + 1), None if covariates is None else covariates[b : b + 1]
        read = None if use is None else use[own]
        last.append(
            decode(cells, output, inputs[own], [[s[own] for s in cell] for cell in states], length, read, known)[1]
        )
        lengths.append(length)
    return outputs, [np.concatenate(parts) for parts in zip(*last, strict=True)], np.array(lengths)
