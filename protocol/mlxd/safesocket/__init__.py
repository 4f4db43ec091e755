"""Connects to the daemon's socket, verifies the peer, and checks the socket's folder."""
