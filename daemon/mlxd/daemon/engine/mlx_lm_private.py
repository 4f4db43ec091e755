"""Every private attribute of mlx-lm that the engine uses. A test names each of them.

A release of mlx-lm may rename them, so `pyproject.toml` bounds its version.
"""

from __future__ import annotations

from typing import Any

from mlx_lm.models import cache as cache_classes


def hf_tokenizer(wrapper: Any) -> Any:
    """Return the Hugging Face tokenizer inside a `TokenizerWrapper`."""
    return wrapper._tokenizer


def renders_chats_itself(wrapper: Any) -> bool:
    """Return whether a `TokenizerWrapper` has its own template function, without Jinja."""
    return wrapper._chat_template is not None


def batch_tokens(layer: Any) -> int:
    """Return the number of positions that a `BatchKVCache` covers, padding included."""
    return int(layer._idx)


def drop_first_positions(layer: Any, count: int) -> None:
    """Tell a `BatchKVCache` that its first positions were removed from its arrays."""
    layer._idx -= count


def cache_class(name: str) -> Any:
    """Return mlx-lm's cache class of this name.

    Raises:
        AttributeError, TypeError: there is none. A file must not be able to name any other class.
    """
    found = getattr(cache_classes, name)
    if not issubclass(found, cache_classes._BaseCache):
        raise TypeError(f"{name} is not a cache")
    return found
