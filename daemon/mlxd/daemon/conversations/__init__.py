"""Stored conversations in an SQLite database that only this user can read."""
