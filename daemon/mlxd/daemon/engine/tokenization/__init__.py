"""Chat templates, tokenizing and detokenizing, outside of the compute thread."""
