"""Chat templates, tokenizing and detokenizing, beside the compute thread."""
