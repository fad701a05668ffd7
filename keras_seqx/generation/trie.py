"""A trie in arrays: many prefixes looked up at once, in compiled code, whatever their number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops


class Trie:
    """The prefixes of some sequences, and the tokens that may follow each.

    A node is a prefix. It is found by a hash of its tokens, and made sure of by comparing them with those of a sequence
    that begins with it: a few gathers for all rows, no loop over steps or tokens. All arrays together are as large as
    the sequences. What is no prefix, and what follows an end, may only end.

    Args:
        sequences: lists of token ids, not empty.
        end_tokens: what may follow a whole sequence.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], end_tokens: Sequence[int]):
        self.depth = max(map(len, sequences))
        starts, depths, parents, followers = _nodes(sequences, end_tokens)
        flat = np.concatenate([np.asarray(s, "int32") for s in sequences])
        # Read from any start for as long as the deepest prefix.
        self._flat = np.concatenate([flat, np.zeros(self.depth, "int32")])
        self._factors = np.random.default_rng(0).integers(-(2**31), 2**31, self.depth, dtype="int32") | 1
        position = np.concatenate([np.arange(len(s)) for s in sequences])
        terms = (flat + np.int32(1)).view("uint32") * self._factors[position].view("uint32")
        sums = np.concatenate([[0], np.cumsum(terms, dtype="uint32")]).astype("uint32")
        self._buckets = 2 * len(starts) + 1
        bucket = (sums[starts + depths] - sums[starts]).view("int32") % self._buckets
        order = np.argsort(bucket, kind="stable")
        self._starts, self._depths = starts[order], depths[order]
        sizes = np.bincount(bucket, minlength=self._buckets)
        self._first_node = (np.cumsum(sizes) - sizes).astype("int32")
        self._probes = int(sizes.max())
        # One node more, for whatever is no prefix.
        rank = np.empty(len(order) + 1, "int32")
        rank[order], rank[-1] = np.arange(len(order)), len(order)
        parents, followers = np.append(parents, [len(order)] * len(end_tokens)), np.append(followers, end_tokens)
        by_node = np.argsort(rank[parents], kind="stable")
        self._followers = followers[by_node].astype("int32")
        self._counts = np.bincount(rank[parents]).astype("int32")
        self._first_follower = (np.cumsum(self._counts) - self._counts).astype("int32")

    def followers(self, prefixes: Any, lengths: Any) -> tuple[Any, Any]:
        """Returns the tokens that may follow.

        Args:
            prefixes: int32 tensor (R, depth), the first tokens of each row; what is behind its length is not read.
            lengths: int32 tensor (R,), may exceed the depth.

        Returns:
            Tokens (R, C), and booleans (R, C) that tell which of them count.
        """
        ranks = np.arange(self._counts.max(), dtype="int32")
        node = self._find(prefixes, lengths)
        index = ops.take(self._first_follower, node)[:, None] + ops.cast(ranks, "int32")
        index = ops.minimum(index, len(self._followers) - 1)
        return ops.take(self._followers, index), ops.cast(ranks, "int32") < ops.take(self._counts, node)[:, None]

    def _find(self, prefixes: Any, lengths: Any) -> Any:
        """Each row's node (R,), int32; the last one for what is no prefix."""
        position = ops.arange(self.depth, dtype="int32")
        # Tokens count from one, and zero is behind the end.
        prefixes = ops.where(position < lengths[:, None], prefixes + 1, 0)
        code = ops.cast(ops.sum(prefixes * ops.cast(self._factors, "int32"), axis=1), "int32")
        first = ops.take(self._first_node, ops.mod(code, self._buckets))
        candidates = first[:, None] + ops.arange(self._probes, dtype="int32")
        candidates = ops.minimum(candidates, len(self._starts) - 1)
        depths = ops.take(self._depths, candidates)
        tokens = ops.take(self._flat, ops.take(self._starts, candidates)[..., None] + position)
        tokens = ops.where(position < depths[..., None], tokens + 1, 0)
        # What is longer than every sequence may look like the longest, behind which there is nothing but the end too.
        same = ops.all(tokens == prefixes[:, None], axis=-1)
        found = ops.max(ops.where(same, candidates, -1), axis=1)
        return ops.where(found < 0, len(self._starts), found)


def _nodes(sequences: Sequence[Sequence[int]], end_tokens: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Start (in the sequences put end to end) and depth of each node; parent and token of each edge."""
    edges: dict[tuple[int, int], int] = {}
    nodes, start = [(0, 0)], 0
    for sequence in sequences:
        node = 0
        for depth, token in enumerate(sequence, start=1):
            child = edges.get((node, token))
            if child is None:
                child = edges[node, token] = len(nodes)
                nodes.append((start, depth))
            node = child
        edges.update({(node, end): -1 for end in end_tokens})
        start += len(sequence)
    starts, depths = np.array(nodes, "int32").T
    parents, followers = np.array(list(edges), "int32").T
    return starts, depths, parents, followers
