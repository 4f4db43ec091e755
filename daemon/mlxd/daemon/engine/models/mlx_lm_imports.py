"""Imports mlx-lm without transformers and the hub library, which take three quarters of its time.

mlx-lm imports both at the top of its files, and needs them for downloads and for tokenizers only.
The same holds for what draws the progress of training.
While it is imported, small stand-ins take their places. Afterwards `import transformers` gives the
real package again: tokenizers that need it are loaded with it then.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mlxd.daemon.engine.tokenization import light_tokenizer
from mlxd.daemon.engine.tokenization.chat_template import compile_template
from mlxd.daemon.engine.tokenization.light_tokenizer import LightTokenizer

NEEDED = ("mlx_lm.utils", "mlx_lm.tokenizer_utils", "mlx_lm.tuner.utils")
"""Modules of mlx-lm that the engine uses and that import one of the two. The last one loads
adapters."""


def import_without_transformers() -> None:
    """Import mlx-lm, unless it or transformers is imported already."""
    if any(name.partition(".")[0] in ("mlx_lm", "transformers") for name in sys.modules):
        return
    places = _stand_ins()
    before = set(sys.modules)
    sys.modules.update(places)
    try:
        for name in NEEDED:
            importlib.import_module(name)
    except ImportError:  # a version that needs more of them
        for name in set(sys.modules) - before - set(places):
            if name.partition(".")[0] == "mlx_lm":
                del sys.modules[name]
    finally:
        for name in places:
            del sys.modules[name]


def load_tokenizer(folder: Path, *, trust_remote_code: bool, eos_token_ids: Any) -> Any:
    """Return mlx-lm's wrapper of the folder's tokenizer. Raises whatever transformers raises."""
    import mlx_lm.tokenizer_utils as imported

    if hasattr(imported.AutoTokenizer, "stands_in"):
        if not trust_remote_code:
            try:
                return imported.load(folder, eos_token_ids=eos_token_ids)
            except NeedsTransformers:
                pass
        imported = _with_transformers(imported)
    _limit_templates()
    extra = {"trust_remote_code": True} if trust_remote_code else None
    return imported.load(folder, extra, eos_token_ids=eos_token_ids)


class NeedsTransformers(Exception):
    """`light_tokenizer` does not support the folder's tokenizer."""


class _AutoTokenizer:
    """A stub for transformers' class of this name."""

    stands_in = True

    @staticmethod
    def from_pretrained(folder: Path) -> LightTokenizer:
        found = light_tokenizer.load(folder, lambda: _whole(folder))
        if found is None:
            raise NeedsTransformers(folder)
        return found

    @staticmethod
    def register(*_: Any, **__: Any) -> None:
        """Does nothing, because transformers loads such tokenizers."""


def _stand_ins() -> dict[str, ModuleType]:
    """Return stub modules with the names that mlx-lm imports."""
    transformers = _package("transformers", AutoTokenizer=_AutoTokenizer)
    base = _package("transformers.tokenization_utils_base")
    for name in ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "PreTrainedTokenizerBase"):
        setattr(transformers, name, LightTokenizer)
        setattr(base, name, LightTokenizer)
    hub = _package("huggingface_hub", snapshot_download=_download)
    # Draws the progress of training, with rich.
    progress = _package("mlx_lm.cli_ui", TrainUI=None, rprint=print)
    return {module.__name__: module for module in (transformers, base, hub, progress)}


def _package(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    module.__dict__.update(attributes)
    return module


def _whole(folder: Path) -> Any:
    from transformers import AutoTokenizer

    _limit_templates()
    return AutoTokenizer.from_pretrained(folder)


def _download(*args: Any, **kwargs: Any) -> Any:
    from huggingface_hub import snapshot_download

    return snapshot_download(*args, **kwargs)


def _with_transformers(imported: Any) -> Any:
    """Return a second copy of mlx-lm's module that uses the real transformers.

    Both copies share the detokenizer classes, so that `isinstance` works for both.
    """
    spec = imported.__spec__
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    for name, value in list(vars(imported).items()):
        if name.endswith("StreamingDetokenizer"):
            setattr(second, name, value)
    return second


def _limit_templates() -> None:
    """Have transformers compile chat templates with this program's limits on time and memory."""
    from transformers.utils import chat_template_utils

    chat_template_utils._compile_jinja_template = functools.lru_cache(16)(compile_template)
