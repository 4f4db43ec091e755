"""Prefill: prompts are computed in chunks, and short ones share a pass."""
