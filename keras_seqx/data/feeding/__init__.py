"""Feeds the planned batches to Keras, and keeps the position."""
