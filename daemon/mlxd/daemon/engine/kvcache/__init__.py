"""KV caches: the prefix cache in memory and on disk, and operations on caches."""
