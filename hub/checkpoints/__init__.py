"""Readers and writers of checkpoint formats: one tensor at a time, bounded memory."""
