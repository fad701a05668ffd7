"""Attention as its authors and TensorFlow Addons wrote it down: one row and one place at a time, in NumPy alone.

Nothing here but analytic functions (and `hard`), so that a step of 1e-20 along the imaginary axis gives derivatives
exact to the last digit.
"""

import numpy as np

from tests.reference.decoder import STEPS, sigmoid


def score(kind, weights, h, m):
    """The score of one place m (M,) for the hidden output h (H,), and how many of the weights it used."""
    if kind == "luong_dot":
        return h @ m, 0
    if kind == "luong":
        return h @ (m @ weights[0]), 1
    if kind == "luong_scaled":
        return weights[1] * (h @ (m @ weights[0])), 2
    memory_kernel, query_kernel, v = weights[:3]
    if kind == "bahdanau":
        return v @ np.tanh(h @ query_kernel + m @ memory_kernel), 3
    bias, gain = weights[3:5]
    return gain * v / np.sqrt(np.sum(v**2)) @ np.tanh(h @ query_kernel + m @ memory_kernel + bias), 5


def softmax(scores):
    weights = np.exp(scores - np.max(scores.real, initial=0))
    return weights / np.sum(weights)


def soft(scores, previous):
    """The chance to stop at j: from each place k where it may have stopped before, past all places between."""
    p = sigmoid(scores)
    alignments = np.zeros_like(p)
    for j in range(len(p)):
        for k in range(j + 1):
            alignments[j] += previous[k] * np.prod(1 - p[k:j]) * p[j]
    return alignments


def hard(scores, previous):
    alignments = np.zeros_like(scores)
    if previous.sum() == 0:
        return alignments
    for j in range(int(np.argmax(previous)), len(scores)):
        if sigmoid(scores[j]) > 0.5:
            alignments[j] = 1
            break
    return alignments


def attend(kind, weights, h, memory, valid, monotonic, previous):
    """Attention (H',) and alignments (S,) of one row: h (H,), memory (S, M), valid (S,), previous (S,)."""
    scored = [score(kind, weights, h, m) for m in memory]
    used, scores = scored[0][1], np.array([s for s, _ in scored])[valid]
    alignments = np.zeros(len(memory), dtype=np.result_type(scores, float))
    if monotonic is None:
        alignments[valid] = softmax(scores)
    else:
        # A place that is not valid is passed by: what stopped there before stands in front of the next valid one.
        carried = np.zeros_like(alignments, shape=len(scores))
        places = np.flatnonzero(valid)
        for s, p in enumerate(previous):
            if np.any(places >= s):
                carried[np.argmax(places >= s)] += p
        alignments[valid] = (soft if monotonic == "soft" else hard)(scores + weights[used], carried)
    context = alignments[valid] @ memory[valid]
    return np.tanh(np.concatenate([h, context]) @ weights[-1]), alignments


def run(cell, weights, inputs, states, memory, mask, kind="bahdanau", input_feeding=True, monotonic=None):
    """Runs an attention cell over inputs.

    Args:
        cell: `(kind, weights)` of the inner cell.
        weights: list of arrays: the score's (memory kernel, query kernel, vector, bias, gain, as far as there are),
            the monotonic bias, the kernel of the output.
        inputs: (B, T, D).
        states: list of arrays: the inner cell's, the attention (B, H') if fed, the alignments (B, S) if monotonic.
        memory: (B, S, M).
        mask: (B, S) booleans.

    Returns:
        Outputs (B, T, H'), alignments (B, T, S) and the last states.
    """
    name, inner = cell
    dtype = np.result_type(*(a.dtype for a in [inputs, memory, *states, *weights, *inner]))
    outputs, alignments, last = [], [], []
    for b in range(len(inputs)):
        own = [s[b].astype(dtype) for s in states]
        previous = own.pop() if monotonic else None
        attention = own.pop() if input_feeding else np.zeros(0)
        row = []
        for x in inputs[b]:
            h, own = STEPS[name](inner, np.concatenate([x, attention])[None], [s[None] for s in own])
            h, own = h[0], [s[0] for s in own]
            output, previous = attend(kind, weights, h, memory[b], mask[b], monotonic, previous)
            attention = output if input_feeding else attention
            row.append((output, previous))
        outputs.append([output for output, _ in row])
        alignments.append([a for _, a in row])
        last.append([*own, *([attention] if input_feeding else []), *([previous] if monotonic else [])])
    return np.array(outputs), np.array(alignments), [np.array(parts) for parts in zip(*last, strict=True)]


def derivative(function, array, index):
    """d function / d array[index] of a real analytic `function` of `array`."""
    moved = np.array(array, dtype="complex128")
    moved[index] += 1e-20j
    return function(moved).imag / 1e-20


def normalized(x, gamma, beta, epsilon):
    centred = x - np.mean(x)
    return centred / np.sqrt(np.mean(centred**2) + epsilon) * gamma + beta


def turned(x, position):
    """Each pair of features (x[i], x[n + i]) as a complex number, turned by position / 10000 ** (i / n)."""
    n = len(x) // 2
    angles = position * 10000.0 ** (-np.arange(n) / n)
    a, b = x[:n], x[n:]
    return np.concatenate([a * np.cos(angles) - b * np.sin(angles), a * np.sin(angles) + b * np.cos(angles)])


def one_head(query, keys, values):
    weights = softmax(np.array([query @ key for key in keys]) / np.sqrt(len(query)))
    return weights @ np.array(values), weights


def block(weights, inputs, heads, activation, memory=None, valid=None, normalize_first=True, epsilon=1e-5):
    """A block of a Transformer decoder over one row, position by position from scratch.

    Args:
        weights: list of pairs (kernel, bias) or (gamma, beta), in the order of the equations: queries, keys and
            values of the self-attention at once; its output; its normalization; with a memory, the query of the
            cross-attention, its keys and values, its output, its normalization; two layers; a normalization.
        inputs: (T, D). memory: (S, M) or None. valid: (S,) booleans.

    Returns:
        Outputs (T, D), and the weights of the cross-attention, averaged over heads (T, S) or None.
    """
    width = inputs.shape[1]
    size = width // heads
    parts = [slice(i * size, (i + 1) * size) for i in range(heads)]
    weights = list(weights)
    (w_self, b_self), (w_out, b_out), norm_self = weights[:3]
    if memory is not None:
        (w_query, b_query), (w_memory, b_memory), (w_cross, b_cross), norm_cross = weights[3:7]
        of_memory = memory[valid] @ w_memory + b_memory
    (w_1, b_1), (w_2, b_2), norm = weights[-3:]

    def add(x, sublayer, parameters):
        if normalize_first:
            return x + sublayer(normalized(x, *parameters, epsilon))
        return normalized(x + sublayer(x), *parameters, epsilon)

    outputs, alignments, before = [], [], []
    for t, x in enumerate(inputs):
        aligned = []

        def self_attention(x, t=t):
            query, key, value = np.split(x @ w_self + b_self, 3)
            before.append((np.concatenate([turned(key[p], t) for p in parts]), value))
            found = [
                one_head(turned(query[p], t), [k[p] for k, _ in before], [v[p] for _, v in before])[0] for p in parts
            ]
            return np.concatenate(found) @ w_out + b_out

        def cross_attention(x, aligned=aligned):
            query, found = x @ w_query + b_query, []
            for p in parts:
                if valid.any():
                    context, row = one_head(query[p], of_memory[:, :width][:, p], of_memory[:, width:][:, p])
                else:
                    context, row = np.zeros(size), np.zeros(0)
                found.append(context)
                aligned.append(row)
            return np.concatenate(found) @ w_cross + b_cross

        x = add(x, self_attention, norm_self)
        if memory is not None:
            x = add(x, cross_attention, norm_cross)
            mean = np.zeros(len(memory), dtype=aligned[0].dtype)
            mean[valid] = np.mean(aligned, axis=0)
            alignments.append(mean)
        x = add(x, lambda x: activation(x @ w_1 + b_1) @ w_2 + b_2, norm)
        outputs.append(x)
    return np.array(outputs), np.array(alignments) if alignments else None
