"""Prompts: computed in chunks, short ones together."""
