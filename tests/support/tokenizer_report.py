"""Reports the properties of tokenizers that the engine uses: `python tokenizer_report.py FOLDER…`.

If imported, it uses mlx-lm and transformers of the importing process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlxd.daemon.engine.models.mlx_lm_imports import import_without_transformers, load_tokenizer

TOKENS = (70, 71, 72, 44, 5)


def report(folder: str) -> dict[str, Any]:
    """Return the properties of mlx-lm's wrapper of a folder's tokenizer, and how it was loaded."""
    wrapper = load_tokenizer(Path(folder), trust_remote_code=False, eos_token_ids=[1, 2])
    detokenizer = wrapper.detokenizer
    for token in TOKENS:
        detokenizer.add_token(token)
    detokenizer.finalize()
    parser = wrapper.tool_parser
    return {
        "detokenizer": [type(detokenizer).__name__, detokenizer.text],
        "ends": sorted(wrapper.eos_token_ids),
        "has_template": wrapper.has_chat_template,
        "thinking": [wrapper.has_thinking, wrapper.think_start, wrapper.think_end_tokens],
        "tools": [wrapper.tool_call_start, wrapper.tool_call_end, parser and parser.__module__],
        "markers": list(wrapper.structural_markers),
        "bos": wrapper.bos_token,
        "size": len(wrapper),
        "kind": type(wrapper._tokenizer).__name__,  # noqa: SLF001  # which class loaded the files
        "heavy": sorted({"transformers", "huggingface_hub", "rich"} & set(sys.modules)),
    }


if __name__ == "__main__":
    import_without_transformers()
    import mlx_lm.tuner.utils  # noqa: F401 - loads adapters

    import mlxd.daemon.engine.start  # noqa: F401 - imports everything that an engine imports

    print(json.dumps({folder: report(folder) for folder in sys.argv[1:]}))
