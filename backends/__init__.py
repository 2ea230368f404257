"""Where a deployment runs; each backend is imported at first use."""
