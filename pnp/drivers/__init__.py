"""Reconstruction from start to end: arguments, iterations, checkpoints, results."""
