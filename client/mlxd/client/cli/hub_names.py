"""Parses model names as users paste them, including addresses of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from mlxd.client.cli.failures import Misuse

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
ADDRESS = re.compile(r"(?:https?://)?(?P<host>[^/]+)/(?P<path>[^?#]*)(?:[?#].*)?")
MODEL = re.compile(r"(?P<name>[^/]+/[^/]+)(?:/(?:tree|blob|resolve)/(?P<revision>[^/]+)(?:/.*)?)?")
NO_MODELS = ("datasets", "spaces", "collections", "papers", "docs", "models")


def parse_model(
    text: str, revision: str | None = None, environ: Mapping[str, str] = os.environ
) -> tuple[str, str | None]:
    """Return (name, revision) of an address on the hub or its mirror. Plain names are unchanged.

    Raises:
        Misuse: the address is not a model's, or has a revision other than the one given.
    """
    found = ADDRESS.fullmatch(text.strip())
    hosts = (*HOSTS, environ.get("HF_ENDPOINT", "").rpartition("://")[2].rstrip("/"))
    if found is None or found["host"] not in hosts:
        if "://" in text:
            raise Misuse(
                f"{text} is not an address on the Hugging Face hub.", hint="Give ORG/NAME."
            )
        return text, revision
    model = MODEL.fullmatch(found["path"].strip("/"))
    if model is None or model["name"].partition("/")[0] in NO_MODELS:
        raise Misuse(f"{text} is not the address of a model.", hint="Give ORG/NAME.")
    if revision and model["revision"] and revision != model["revision"]:
        raise Misuse(
            f"The address names revision {model['revision']}, but --revision is {revision}.",
            hint="Give only one of them.",
        )
    return model["name"], revision or model["revision"]
