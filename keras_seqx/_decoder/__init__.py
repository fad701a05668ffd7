"""The loop of a decoder: its cells, what surrounds them, and the ways to run them."""
