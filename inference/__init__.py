"""The one inference core: model, tokenizer, engine, HTTP service."""
