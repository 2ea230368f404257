"""How the built-in demo model is made: its text, its tokenizer, its training, its files."""
