"""The HTTP service: one app, every contract that a platform speaks."""
