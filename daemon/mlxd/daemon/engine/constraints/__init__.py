"""JSON Schema, regex and Lark constraints."""
