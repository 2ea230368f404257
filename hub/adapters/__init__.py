"""Adapters: low-rank updates of a base model (LoRA), read, checked, kept, merged, converted."""
