"""A few sequences of a data set, for checks of the models that get it."""

import numpy as np

from keras_seqx._core.probe import Probe, ProbeBatch
from keras_seqx.data.feeding.finite import collate
from keras_seqx.data.planning.epoch_plan import Buckets, Plan, round_up
from keras_seqx.data.planning.options import Options
from keras_seqx.data.sequences.fields import Fields

COUNT = 4


def make_probe(fields: Fields, buckets: Buckets, options: Options, weighted: bool) -> Probe:
    """Returns a probe of sequences that were sorted into buckets.

    They are no shorter than the shortest bucket where possible, because a model need not run at other lengths.
    """
    lengths = buckets.lengths[buckets.order]
    if buckets.boundaries is None:
        shapes = np.unique(
            round_up(np.stack([lengths.min(axis=0), lengths.max(axis=0)]), options.length_multiple), axis=0
        )
        alone = buckets.rows.max() == 1 and options.length_multiple == 1
        is_padded = not alone and bool((lengths != shapes[-1]).any())
    else:
        shapes = buckets.boundaries[np.argsort(buckets.boundaries.sum(axis=1), kind="stable")]
        bucket = np.repeat(np.arange(len(buckets.boundaries)), np.diff(buckets.edges))
        is_padded = bool((lengths < buckets.boundaries[bucket]).any())
    total = lengths.sum(axis=1)
    long = np.flatnonzero(total >= min(shapes[0].sum(), np.median(total)))
    long = long[np.argsort(total[long], kind="stable")]
    first = np.unique(total[long], return_index=True)[1]
    chosen = buckets.order[long[first if len(first) > 1 else slice(None)][:COUNT]]
    few = fields.take(chosen.astype(np.intp))

    def batch(rows: np.ndarray, lengths: np.ndarray, padded: np.ndarray) -> ProbeBatch:
        some = few.take(np.asarray(rows, np.intp)).truncate(lengths)
        one, order = np.ones(1, int), np.arange(len(rows))
        plan = Plan(order, 0 * one, len(rows) * one, len(rows) * one, padded[None], 0 * one, 1, lengths)
        made = collate(some, plan, 0, 0, weighted)
        part = some.parts["x"]
        own = part.pack([None if c.axis is None else lengths[:, c.axis] for c in part.fields])
        if some.inputs:
            own = {**(own if part.is_dict else {"inputs": own}), **dict.fromkeys(some.inputs)}
        x, y, weight = (*made, None, None)[:3]
        return ProbeBatch(x, y, weight, own)

    return Probe(few.lengths, shapes, is_padded, batch)
