"""Decides which sequences make which batch of an epoch."""
