"""Variables of a caller's shell that hold for one download: endpoint, token, proxies. Pure.

They go with the request and are neither logged nor stored.
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
"""Where models are kept is the daemon's own setting: it must find them again."""
_SECRET = re.compile(r"TOKEN|_HEADER")
_USER_OF_URL = re.compile(r"(?<=//)[^/@\s]+(?=@)")


def is_hub_variable(name: str) -> bool:
    """Whether a variable may go with a download."""
    return name in _NAMES or (name.startswith(_PREFIX) and name not in _PLACES)


def hub_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what of a shell's environment goes with a download."""
    return {name: value for name, value in environ.items() if value and is_hub_variable(name)}


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return a text without the tokens and passwords of an environment."""
    for name, value in environment.items():
        if _SECRET.search(name) and value:
            text = text.replace(value, "***")
        for user in _USER_OF_URL.findall(value):
            text = text.replace(user, "***")
            if ":" in user and (password := user.partition(":")[2]):
                text = text.replace(password, "***")
    return text
