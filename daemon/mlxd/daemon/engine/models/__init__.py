"""Loaded models: memory budget, loading, eviction."""
