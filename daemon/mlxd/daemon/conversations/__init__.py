"""Conversations on disk: SQLite, of this user only."""
