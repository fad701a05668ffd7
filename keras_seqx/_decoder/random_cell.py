"""RNN cells that draw random numbers at every step, inside the loop of Keras' RNN as well."""

from typing import Any

from keras_seqx._core import control_flow, keras_internals


class RandomCell(keras_internals.dropout_rnn_cell()):  # type: ignore[misc]  # Keras exports no type for it
    """A cell that may have a `seed_generator`, and draws at every step if it has.

    On JAX, Keras' RNN runs its steps in `lax.scan`, where no variable may be assigned: a seed generator that advances
    there keeps a tracer in its variable. RNN calls the four methods below, those of Keras' own cells with dropout,
    before and after its loop. So the generator advances once before the loop, and each draw in the loop derives its
    seed from the generator's state and from tensors that differ from draw to draw.
    """

    _derives_seeds = False

    def derive_seeds(self) -> None:
        """Has the draws derive their seeds until `reset_dropout_mask`."""
        if hasattr(self, "seed_generator") and control_flow.SCANS_ASSIGN_NO_VARIABLE:
            self.seed_generator.next()
            self._derives_seeds = True

    def get_dropout_mask(self, step_input: Any) -> None:
        """Called before the loop, with the first inputs (B, D)."""
        self.derive_seeds()

    def get_recurrent_dropout_mask(self, step_input: Any) -> None:
        """Called before the loop, with the first state (B, H)."""

    def reset_dropout_mask(self) -> None:
        """Called after the loop."""
        self._derives_seeds = False

    def reset_recurrent_dropout_mask(self) -> None:
        """Called after the loop."""

    def seed_of(self, *values: Any) -> Any:
        """Returns the seed for one draw; the `values`, numbers and tensors, differ from draw to draw."""
        return control_flow.derived_seed(self.seed_generator, values) if self._derives_seeds else self.seed_generator
