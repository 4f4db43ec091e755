"""The differences between CPU, Metal and CUDA."""
