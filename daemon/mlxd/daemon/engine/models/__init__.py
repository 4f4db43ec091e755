"""Loaded models: what fits in memory, loading, eviction."""
