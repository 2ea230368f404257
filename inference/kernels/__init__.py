"""Triton kernels for CUDA. Imported only where Triton is; each module says what its kernels read.

No kernel's result for a row depends on the rows beside it: how sums are split depends on the
weight's shape or on the sequence's own length, never on the batch.
"""
