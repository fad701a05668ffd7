"""Attention over a memory, shared by the cells that have it."""
