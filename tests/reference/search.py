"""Searches for sequences of tokens as plain loops over lists, in NumPy alone.

A model takes tokens, prompt and generated, to the log-probabilities (V,) of the next one. A hypothesis is a pair of
generated tokens and the sum of their log-probabilities. `end` is a token, a tuple of them, or None; with `force_end`
the last of `max_steps` tokens is an end.
"""

import itertools

import numpy as np

from tests.reference.decoder import decode


def log_softmax(logits):
    """Minus infinity throughout where no token is left."""
    logits = np.asarray(logits, "float64")
    if logits.max() == -np.inf:
        return logits
    weights = np.exp(logits - logits.max())
    with np.errstate(divide="ignore"):
        return np.log(weights / weights.sum())


def table_model(table, prompt_length, processors=()):
    """A model whose logits stand in a table (T, K, V): by time, and by one of K states that mix all tokens so far.

    `processors` are functions of logits, history and step.
    """

    def model(tokens):
        state = 0
        for token in tokens:
            state = (3 * state + token + 1) % table.shape[1]
        logits = np.asarray(table[len(tokens) - 1, state], "float64")
        for processor in processors:
            logits = processor(logits, tokens, len(tokens) - prompt_length)
        return log_softmax(logits)

    return model


def score(model, prompt, tokens):
    """The log-probability of generated tokens."""
    return sum(model([*prompt, *tokens[:i]])[token] for i, token in enumerate(tokens))


def normalized(total, length, penalty, gnmt=False):
    return total / ((5 + length) / 6 if gnmt else length) ** penalty


def is_end(token, end):
    return token in end if isinstance(end, tuple) else token == end


def choices(model, tokens, end, must_end):
    """The tokens that may come next, with their log-probabilities."""
    return [(t, logp) for t, logp in enumerate(model(tokens)) if logp > -np.inf and (is_end(t, end) or not must_end)]


def enumerate_all(model, prompt, end, max_steps, penalty=0.0, gnmt=False, force_end=False):
    """All sequences of probability above 0 that end, or have `max_steps` tokens, with their scores, best first."""
    found, unfinished = [], [([], 0.0)]
    for step in range(1, max_steps + 1):
        longer = [
            ([*tokens, token], total + logp)
            for tokens, total in unfinished
            for token, logp in choices(model, [*prompt, *tokens], end, force_end and step == max_steps)
        ]
        ends = [is_end(tokens[-1], end) or step == max_steps for tokens, _ in longer]
        complete = itertools.compress(longer, ends)
        found += [(tokens, normalized(total, step, penalty, gnmt)) for tokens, total in complete]
        unfinished = [hypothesis for hypothesis, ended in zip(longer, ends, strict=True) if not ended]
    return sorted(found, key=lambda hypothesis: -hypothesis[1])


def greedy(model, prompt, end, max_steps, force_end=False):
    """The most likely token at each step, until the end or where none is left."""
    tokens, total = [], 0.0
    while len(tokens) < max_steps:
        possible = choices(model, [*prompt, *tokens], end, force_end and len(tokens) == max_steps - 1)
        if not possible:
            return tokens, -np.inf
        token, logp = max(possible, key=lambda choice: choice[1])
        tokens.append(token)
        total += logp
        if is_end(token, end):
            break
    return tokens, total


def beam_search(
    model,
    prompt,
    beams,
    end,
    max_steps,
    penalty=0.0,
    early_stopping=False,
    groups=1,
    diversity=0.0,
    gnmt=False,
    force_end=False,
):
    """What each group of beams has finished after all steps, or as soon as every group is full; best first."""
    width = beams // groups
    live = [[([], 0.0)] for _ in range(groups)]
    finished = [[] for _ in range(groups)]
    for step in range(1, max_steps + 1):
        taken = []
        for group in range(groups):
            candidates = [
                ([*tokens, token], total + logp)
                for tokens, total in live[group]
                for token, logp in choices(model, [*prompt, *tokens], end, force_end and step == max_steps)
            ]
            candidates.sort(key=lambda c: diversity * taken.count(c[0][-1]) - c[1])
            live[group], taken_here = [], []
            for rank, (tokens, total) in enumerate(candidates):
                ends = is_end(tokens[-1], end) or step == max_steps
                if ends and rank < width:
                    finished[group].append((tokens, normalized(total, step, penalty, gnmt)))
                elif ends or len(live[group]) == width:
                    continue
                else:
                    live[group].append((tokens, total))
                taken_here.append(tokens[-1])
            taken += taken_here
            finished[group] = sorted(finished[group], key=lambda hypothesis: -hypothesis[1])[:width]
        if early_stopping and all(len(f) == width or not beams for f, beams in zip(finished, live, strict=True)):
            break
    return sorted(itertools.chain(*finished), key=lambda hypothesis: -hypothesis[1])


def decoder_logits(cells, output, embedding, states, covariates=None):
    """A function from the tokens that one row reads to its last logits (V,); arguments as of `decoder.decode`."""

    def logits(tokens):
        inputs = embedding[np.asarray(tokens)][None]
        return decode(cells, output, inputs, states, len(tokens), covariates=covariates)[0][0, -1]

    return logits


def speak(logits, ids, steps, use=None, choose=np.argmax):
    """The logits (steps, V) of one row that reads an id (T0,) where `use` is true, and elsewhere what it chose."""
    read, rows, sample = [], [], 0
    for t in range(steps):
        forced = t < len(ids) and (use is None or use[t])
        read.append(int(ids[t]) if forced else int(sample))
        rows.append(logits(read))
        sample = choose(rows[-1])
    return np.stack(rows)
