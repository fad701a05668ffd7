"""Reads sequences of every kind into ragged arrays."""
