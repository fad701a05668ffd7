"""Rebuilds a model for another number of timesteps."""
