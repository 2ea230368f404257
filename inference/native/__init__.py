"""CPU kernels in C, compiled for the machine at hand when it has a compiler."""
