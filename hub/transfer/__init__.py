"""Transfer of one model's files: ranges, resumption, digests while writing, journals."""
