"""Moderators that come with llama-hub: a word list, any moderation service, a Llama Guard."""
