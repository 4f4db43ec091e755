"""The methods' handlers, and the table that finds them."""
