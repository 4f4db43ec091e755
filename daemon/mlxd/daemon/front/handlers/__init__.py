"""The handlers of the methods, and the table that maps methods to handlers."""
