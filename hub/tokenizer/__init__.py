"""A model's vocabulary as its files state it: pieces, added tokens, end tokens, chat templates."""
