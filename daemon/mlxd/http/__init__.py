"""The HTTP bridge: a process that offers the daemon's models over HTTP, in several dialects.

It is a client of the daemon's socket like any other, and imports the client library and the
protocol only.
"""
