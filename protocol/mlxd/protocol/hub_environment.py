"""Selects the environment variables that a client sends with a download. Pure.

These are the hub endpoint, tokens, proxies and certificates. The daemon uses them for one request,
and neither logs nor stores them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMES = frozenset({
    "HF_ENDPOINT", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
    "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE",
    "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE",
})  # fmt: skip
_PREFIX = "HF_HUB_"
_PLACES = frozenset({"HF_HUB_CACHE"})
"""Not sent: the daemon must use its own cache folder to find the models again."""
_SECRET = re.compile(r"TOKEN|_HEADER")
_USER_OF_URL = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def is_hub_variable(name: str) -> bool:
    """Return whether a client may send this variable with a download."""
    return name in _NAMES or (name.startswith(_PREFIX) and name not in _PLACES)


def hub_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of an environment that a client sends with a download."""
    return {name: value for name, value in environ.items() if value and is_hub_variable(name)}


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return the text with the tokens and passwords of an environment replaced by `***`."""
    for name, value in environment.items():
        if _SECRET.search(name) and value:
            text = text.replace(value, "***")
        for user in _USER_OF_URL.findall(value):
            text = text.replace(user, "***")
            if ":" in user and (password := user.partition(":")[2]):
                text = text.replace(password, "***")
    return text
