"""The places that weights come from, one module each."""
