"""The engine process as the front sees it."""
