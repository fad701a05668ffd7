"""What replicas train on in test_replicas.py, and NumPy's account of what they come to."""

import dataclasses

import numpy as np

LENGTHS = (3, 1, 4, 2, 5, 6, 2)  # of the last batch, three rows are there
WEIGHTS = np.array([1.0, 0.5, 2.0, 1.0, 3.0, 1.5, 0.5])
RATE = 0.05


@dataclasses.dataclass(frozen=True)
class Case:
    """Targets at every step or one for each sequence, and a reduction that agrees on any number of replicas."""

    steps: bool
    reduction: str = "sum"
    normalized: bool = True
    remainder: str = "fill"
    weighted: bool = False


CASES = {
    "steps": Case(True),
    "steps_weighted": Case(True, weighted=True),
    "steps_uneven": Case(True, remainder="keep"),
    "steps_summed": Case(True, normalized=False, weighted=True),
    "sequences": Case(False),
    "sequences_uneven": Case(False, remainder="keep", weighted=True),
    "sequences_by_size": Case(False, "sum_over_batch_size", normalized=False, weighted=True),
}


def sequences():
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(length, 2)).astype("float32") for length in LENGTHS]
    return x, [row @ np.array([[2.0], [-1.0]], "float32") + 0.5 for row in x]


def expected(case):
    """Two epochs of gradient descent on batches of four sequences, by one replica without padding, in float64."""
    x, y = sequences()
    kernel = np.zeros(3)
    for _ in range(2):
        for start in (0, 4):
            gradient, total = np.zeros(3), 0.0
            for row in range(start, min(start + 4, len(x))):
                steps, targets = np.column_stack([x[row], np.ones(len(x[row]))]).astype("float64"), y[row][:, 0]
                if not case.steps:
                    steps, targets = steps.mean(axis=0, keepdims=True), targets.sum(keepdims=True)
                weight = WEIGHTS[row] if case.weighted else 1.0
                gradient += weight * 2 * steps.T @ (steps @ kernel - targets)
                total += weight * len(steps)
            divisor = total if case.normalized else 4.0 if case.reduction == "sum_over_batch_size" else 1.0
            kernel = kernel - RATE * gradient / divisor
    return kernel
