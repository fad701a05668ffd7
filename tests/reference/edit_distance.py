"""Edit distances and error rates by the textbook, in NumPy alone."""

import numpy as np


def distance(a, b):
    """Levenshtein's distance of two lists."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            replaced = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, replaced)
    return int(table[-1, -1])


def sequence(ids, end=None, pad=None, steps=None):
    """The tokens of a row that count: those of `steps`, before the first `end`, without `pad`."""
    tokens = [int(x) for i, x in enumerate(ids) if steps is None or steps[i]]
    if end in tokens:
        tokens = tokens[: tokens.index(end)]
    return [x for x in tokens if x != pad]


def compare(references, prediction):
    """Distance to the nearest reference, the longest of the nearest, and its length; empty ones do not count."""
    references = [r for r in references if r] or [[]]
    pairs = [(distance(prediction, r), len(r)) for r in references]
    nearest = min(d for d, _ in pairs)
    return nearest, max(n for d, n in pairs if d == nearest)


def error_rate(items, weights=None, normalize=True):
    """Of items `(references, prediction)`."""
    total = count = 0.0
    for (references, prediction), weight in zip(items, [1] * len(items) if weights is None else weights, strict=True):
        nearest, length = compare(references, prediction)
        total += weight * nearest
        count += weight * (length if normalize else 1)
    return total and (total / count if count else np.inf)


def accuracy(items, weights=None):
    weights = np.ones(len(items)) if weights is None else np.asarray(weights, float)
    right = [prediction in ([r for r in references if r] or [[]]) for references, prediction in items]
    return float(np.dot(weights, right) / weights.sum()) if weights.sum() else 0.0
