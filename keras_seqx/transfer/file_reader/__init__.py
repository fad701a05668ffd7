"""Reads files that may be damaged or hostile, in a separate process with limits."""
