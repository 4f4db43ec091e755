"""What differs between the CPU, Metal and CUDA."""
