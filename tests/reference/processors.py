"""Logits processors of one row, as plain loops in NumPy alone.

`history` is the list of the row's tokens, prompt and generated, without padding; `step` of them were generated.
"""

import numpy as np


def softmax(logits):
    weights = np.exp(np.asarray(logits, "float64") - np.max(logits))
    return weights / weights.sum()


def temperature(logits, history, step, temperature):
    return logits / np.asarray(temperature, logits.dtype)


def top_k(logits, history, step, k):
    smallest = sorted(logits, reverse=True)[min(k, len(logits)) - 1]
    return np.array([x if x >= smallest else -np.inf for x in logits], logits.dtype)


def top_p(logits, history, step, p):
    """Takes the most likely token, of equals the last one, until they sum to p."""
    probabilities = softmax(logits)
    kept, total = np.full_like(logits, -np.inf), 0.0
    for token in sorted(range(len(logits)), key=lambda v: (logits[v], v), reverse=True):
        if total >= p:
            break
        kept[token] = logits[token]
        total += probabilities[token]
    return kept


def min_p(logits, history, step, p):
    probabilities = softmax(logits)
    return np.where(probabilities >= p * probabilities.max(), logits, -np.inf).astype(logits.dtype)


def repetition_penalty(logits, history, step, penalty):
    changed = logits.copy()
    for token in set(history):
        changed[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    return changed


def no_repeat_ngram(logits, history, step, n):
    changed = logits.copy()
    for token in range(len(logits)):
        longer = [*history, token]
        ngrams = [tuple(longer[i : i + n]) for i in range(len(longer) - n + 1)]
        if ngrams and ngrams[-1] in ngrams[:-1]:
            changed[token] = -np.inf
    return changed


def min_length(logits, history, step, length, end_token):
    changed = logits.copy()
    if step < length:
        changed[np.atleast_1d(end_token)] = -np.inf
    return changed


def suppress_tokens(logits, history, step, tokens):
    changed = logits.copy()
    changed[list(tokens)] = -np.inf
    return changed


def forced_tokens(logits, history, step, tokens):
    if step not in tokens:
        return logits
    changed = np.full_like(logits, -np.inf)
    changed[tokens[step]] = 0
    return changed


def prefix_constrained(logits, history, step, sequences, end_token):
    generated = list(history[len(history) - step :])
    ends = np.atleast_1d(end_token).tolist()
    longer = [[*s, end] for s in sequences for end in ends]
    allowed = {s[step] for s in longer if len(s) > step and s[:step] == generated} or set(ends)
    return np.array([x if v in allowed else -np.inf for v, x in enumerate(logits)], logits.dtype)
