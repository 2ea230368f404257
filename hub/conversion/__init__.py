"""Conversion between checkpoint formats: plan, run, what goes beside the weights."""
