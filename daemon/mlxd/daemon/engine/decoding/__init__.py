"""The batched decode step, sampling, and draft models."""
