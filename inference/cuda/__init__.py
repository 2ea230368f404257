"""The computation on CUDA devices: steps without synchronisation, decodes as CUDA graphs."""
