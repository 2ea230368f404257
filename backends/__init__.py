"""Backends: the places where a deployment runs, each imported at first use."""
