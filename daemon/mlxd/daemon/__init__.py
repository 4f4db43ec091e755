"""The daemon: configuration, command line, model catalogue, front and engine."""
