"""Models, and where they come from: catalogue, sources, transfer, store, formats."""
