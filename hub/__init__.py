"""Where models come from and what they are: catalogue, sources, transfer, store, formats."""
