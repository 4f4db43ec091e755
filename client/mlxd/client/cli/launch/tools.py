"""The tools that `mlx launch` knows, and what each needs to use the bridge. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Target:
    """The bridge and the model that a tool is to use."""

    url: str
    key: str
    model: str
    context_tokens: int

    @property
    def openai_url(self) -> str:
        """The base URL of OpenAI's dialect."""
        return f"{self.url}/v1"


@dataclass(frozen=True, slots=True)
class Setup:
    """What a tool is started with. `{file}` in an argument is the path of the temporary file."""

    variables: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    file: str | None = None
    """The text of a configuration file, if the tool needs one."""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `context_tokens` is the least context with which it is of use."""

    program: str
    title: str
    context_tokens: int
    setup: Callable[[Target], Setup]
    needs_tools: bool = True


def _claude(target: Target) -> Setup:
    models = ("ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "CLAUDE_CODE_SUBAGENT_MODEL")
    tiers = tuple(f"ANTHROPIC_DEFAULT_{tier}_MODEL" for tier in ("OPUS", "SONNET", "HAIKU"))
    return Setup(
        {
            "ANTHROPIC_BASE_URL": target.url,
            "ANTHROPIC_AUTH_TOKEN": target.key,
            "ANTHROPIC_API_KEY": "",
            **dict.fromkeys((*models, *tiers), target.model),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
        }
    )


def _codex(target: Target) -> Setup:
    provider = {
        "name": "mlxd",
        "base_url": target.openai_url,
        "env_key": "MLXD_HTTP_KEY",
        "wire_api": "responses",
    }
    settings = {
        "model_provider": "mlxd",
        **{f"model_providers.mlxd.{name}": value for name, value in provider.items()},
    }
    # The values are TOML, in which JSON's strings and numbers are valid.
    options = [("-c", f"{name}={json.dumps(value)}") for name, value in settings.items()]
    options.append(("-c", f"model_context_window={target.context_tokens}"))
    options.append(("-m", target.model))
    return Setup(
        {"MLXD_HTTP_KEY": target.key}, tuple(word for option in options for word in option)
    )


def _opencode(target: Target) -> Setup:
    limit = {"context": target.context_tokens, "output": target.context_tokens // 4}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "mlxd",
        "options": {"baseURL": target.openai_url, "apiKey": target.key},
        "models": {target.model: {"name": target.model, "limit": limit, "tool_call": True}},
    }
    config = {"provider": {"mlxd": provider}, "model": f"mlxd/{target.model}"}
    return Setup({"OPENCODE_CONFIG_CONTENT": json.dumps(config)})


def _aider(target: Target) -> Setup:
    variables = {"OPENAI_API_BASE": target.openai_url, "OPENAI_API_KEY": target.key}
    return Setup(variables, ("--model", f"openai/{target.model}"))


def _qwen(target: Target) -> Setup:
    return Setup(
        {
            "OPENAI_BASE_URL": target.openai_url,
            "OPENAI_API_KEY": target.key,
            "OPENAI_MODEL": target.model,
        }
    )


def _cn(target: Target) -> Setup:
    model = {
        "name": target.model,
        "provider": "openai",
        "model": target.model,
        "apiBase": target.openai_url,
        "apiKey": target.key,
        "roles": ["chat", "edit", "apply"],
        "capabilities": ["tool_use"],
        "defaultCompletionOptions": {"contextLength": target.context_tokens},
    }
    # YAML, of which JSON is a part.
    config = {"name": "mlxd", "version": "0.0.1", "schema": "v1", "models": [model]}
    return Setup(
        arguments=("--config", "{file}"), file=json.dumps(config, indent=2), suffix=".yaml"
    )


TOOLS: dict[str, Tool] = {
    "claude": Tool("claude", "Claude Code", 32_768, _claude),
    "codex": Tool("codex", "Codex CLI", 32_768, _codex),
    "opencode": Tool("opencode", "opencode", 32_768, _opencode),
    "qwen": Tool("qwen", "Qwen Code", 32_768, _qwen),
    "cn": Tool("cn", "Continue's cn", 16_384, _cn),
    "aider": Tool("aider", "aider", 8_192, _aider, needs_tools=False),
}
"""Maps the name of a tool to what it needs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on this machine, as far as it matters to a tool."""

    name: str
    context_tokens: int
    has_tools: bool


def problem_of(tool: Tool, model: Candidate) -> str | None:
    """Return why a model cannot serve a tool, or None."""
    if tool.needs_tools and not model.has_tools:
        return f"The chat template of {model.name} has no tools, which {tool.title} needs."
    if model.context_tokens < tool.context_tokens:
        return (
            f"{tool.title} needs a context of {tool.context_tokens:,} tokens. "
            f"{model.name} has {model.context_tokens:,}."
        )
    return None
