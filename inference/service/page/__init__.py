"""The chat page: static files, no build step."""
