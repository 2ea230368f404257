"""The llama-hub command: one file per command group."""
