"""Checks of a model and of the attacks on it."""
