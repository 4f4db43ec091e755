"""The hub worker: a short-lived process that downloads or converts one model.

Killing it loses nothing: the next one resumes its work.
"""
