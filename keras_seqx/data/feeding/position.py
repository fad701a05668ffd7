"""Where a run through the batches stands, as far as can be told from what Keras asks for."""

import array


class PositionTracker:
    """Follows a data set through its passes.

    A position counts batches from the first of epoch 0 on. Keras asks for the batches of a pass by their index, from 0;
    it also asks for some before it trains, and, ahead of training, for some that it may never train on. Its hooks do
    not tell passes apart either: `on_epoch_end` comes before the first epoch, and after part of a pass.

    Args:
        batches: the number of batches of an epoch.

    Attributes:
        start: the position of index 0.
        batches_trained: the position up to which batches were trained on; None if no callback counts them.
        in_epoch: whether Keras is in an epoch.
    """

    def __init__(self, batches: int):
        self.batches = batches
        self.in_epoch = False
        self.move(0)

    def move(self, position: int) -> None:
        """Starts a new pass at a position."""
        self.start = position
        self.batches_trained: int | None = None
        self.in_order = True
        self._by_hand = 0
        self._last = -1
        self._turns = self._outside = False
        # The pass under way is the latest run of distinct indices: of each index, when it was last asked for.
        self._asked = array.array("q", [-1]) * self.batches
        self._clock = self._since = 0

    def ask(self, index: int) -> int:
        """Notes that a batch is asked for, and returns its position."""
        if self._turns:
            self._turn()
        self._since = max(self._since, self._asked[index] + 1)
        self._asked[index] = self._clock
        self._clock += 1
        # Between two epochs of a pass, TensorFlow goes on asking ahead.
        if self.in_epoch or index == self._last + 1 > 0:
            if index == 0 and self.in_order and self.batches_trained != self.start:
                self.batches_trained = None  # A pass begins, and who counted in an earlier one has not counted since.
            self.in_order = self.in_order and index in (0, self._last + 1)
            self._last = index
        else:
            self._by_hand = index + 1 if index in (0, self._by_hand) else 0
            self._outside = True
        return self.start + index

    @property
    def complete(self) -> bool:
        """Whether every batch of the pass has been asked for."""
        return self._clock - self._since == self.batches

    def begin(self) -> None:
        """Notes that Keras begins an epoch, which may go on with a pass."""
        if self._outside:
            self._since = self._clock  # What was asked for outside of an epoch is no part of its pass.
        self.in_epoch = True
        self._turns = self._outside = False
        self._by_hand = 0

    def end(self) -> None:
        """Notes that Keras ends an epoch: a complete pass is followed by the next."""
        if self.complete and self.in_epoch:
            self._turn()
        elif self.complete:
            # By hand, or all batches were looked at before `fit`, which begins with this hook: the next call tells.
            self._turns = True
        if self.complete or not self.in_epoch:
            self._since = self._clock
        self.in_epoch = False

    def _turn(self) -> None:
        """Starts the pass that follows a complete one."""
        self.start += self.batches
        self._turns = False
        self._last, self._by_hand = -1, 0

    @property
    def position(self) -> int | None:
        """The first batch not trained on, or None where it is unknown."""
        if self.batches_trained is not None:
            return self.batches_trained
        return self.start + self._by_hand if self._last < 0 else None
