"""Reads layers and weights from models and from files."""
