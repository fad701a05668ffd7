"""Decoding machinery: knows tensors, cells and loops, and none of the package's layers."""
