"""What each tool of `mlx launch` is started with."""

from __future__ import annotations

import json
import tomllib

import pytest

from mlxd.client.cli.launch.tools import TOOLS, Candidate, Setup, Target, problem_of

TARGET = Target("http://127.0.0.1:6593", "k3y", "org/model", 65_536)


def setup(name: str) -> Setup:
    return TOOLS[name].setup(TARGET)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_gets_the_bridge_the_model_and_the_key(name: str) -> None:
    found = setup(name)
    everything = " ".join([*found.variables.values(), *found.arguments, found.file or ""])
    for part in (TARGET.url, TARGET.model, TARGET.key):
        assert part in everything, part


def test_claude_code_uses_the_model_for_everything() -> None:
    variables = setup("claude").variables
    assert variables["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:6593"
    models = {value for name, value in variables.items() if name.endswith("_MODEL")}
    assert models == {"org/model"}


def test_codex_gets_valid_toml() -> None:
    words = setup("codex").arguments
    options = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
    settings = tomllib.loads("\n".join(options))
    assert settings["model_provider"] == "mlxd"
    assert settings["model_providers"]["mlxd"]["wire_api"] == "responses"
    assert settings["model_context_window"] == 65_536


def test_opencode_gets_the_context_length() -> None:
    config = json.loads(setup("opencode").variables["OPENCODE_CONFIG_CONTENT"])
    model = config["provider"]["mlxd"]["models"]["org/model"]
    assert model["limit"]["context"] == 65_536
    assert config["model"] == "mlxd/org/model"


def test_cn_gets_a_file_of_its_own() -> None:
    found = setup("cn")
    assert "{file}" in found.arguments
    assert json.loads(found.file or "")["models"][0]["apiBase"] == "http://127.0.0.1:6593/v1"


def test_a_model_must_have_tools_and_context_enough() -> None:
    claude, aider = TOOLS["claude"], TOOLS["aider"]
    assert problem_of(claude, Candidate("m", 65_536, True)) is None
    assert "no tools" in str(problem_of(claude, Candidate("m", 65_536, False)))
    assert "32,768" in str(problem_of(claude, Candidate("m", 8_192, True)))
    assert problem_of(aider, Candidate("m", 8_192, False)) is None
