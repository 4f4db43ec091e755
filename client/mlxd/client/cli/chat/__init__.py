"""`mlx chat`. `command` parses the options, `repl` reads lines, `slash` runs the slash commands."""
