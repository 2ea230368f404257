"""Azure ML managed online endpoints."""
