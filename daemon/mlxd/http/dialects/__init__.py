"""The dialects: OpenAI, Anthropic, Ollama and others. One module each, and the table of paths."""

from __future__ import annotations

from collections.abc import Mapping

from mlxd.http.dialects import (
    anthropic,
    general,
    llama_cpp,
    lm_studio,
    models,
    ollama,
    ollama_models,
    openai,
    openai_chat,
    openai_completions,
    responses,
)
from mlxd.http.routes import ErrorBody, Handler, Route

GET, POST, DELETE = ("GET",), ("POST",), ("DELETE",)


def _routes(error_body: ErrorBody, *rows: tuple[tuple[str, ...], str, Handler]) -> list[Route]:
    return [
        Route(
            methods, pattern, handler, error_body, handler is not ollama_models.handle_unsupported
        )
        for methods, pattern, handler in rows
    ]


ROUTES: tuple[Route, ...] = (
    *_routes(
        openai.error_body,
        (GET, "/health", general.handle_health),
        (GET, "/metrics", general.handle_metrics),
        (POST, "/v1/chat/completions", openai_chat.handle),
        (POST, "/v1/completions", openai_completions.handle),
        (POST, "/v1/responses", responses.handle),
        (POST, "/v1/responses/input_tokens", responses.handle_count),
        (GET, "/v1/models", models.handle_list),
        (GET, "/v1/models/{id}", models.handle_one),
        (POST, "/v1/embeddings", models.handle_embeddings),
        (POST, "/tokenize", llama_cpp.handle_tokenize),
        (POST, "/detokenize", llama_cpp.handle_detokenize),
        (POST, "/apply-template", llama_cpp.handle_apply_template),
        (POST, "/infill", llama_cpp.handle_infill),
        (GET, "/props", llama_cpp.handle_props),
        (GET, "/slots", llama_cpp.handle_slots),
        (GET, "/api/v0/models", lm_studio.handle_list),
        (GET, "/api/v0/models/{id}", lm_studio.handle_one),
        (POST, "/api/v0/chat/completions", openai_chat.handle),
        (POST, "/api/v0/completions", openai_completions.handle),
    ),
    *_routes(
        anthropic.error_body,
        (POST, "/v1/messages", anthropic.handle),
        (POST, "/v1/messages/count_tokens", anthropic.handle_count),
    ),
    *_routes(
        ollama.error_body,
        (GET, "/", ollama_models.handle_root),
        (GET, "/api/version", ollama_models.handle_version),
        (GET, "/api/tags", ollama_models.handle_tags),
        (POST, "/api/show", ollama_models.handle_show),
        (GET, "/api/ps", ollama_models.handle_ps),
        (POST, "/api/chat", ollama.handle_chat),
        (POST, "/api/generate", ollama.handle_generate),
        (POST, "/api/embed", models.handle_embeddings),
        (POST, "/api/embeddings", models.handle_embeddings),
        (POST, "/api/pull", ollama_models.handle_pull),
        (DELETE, "/api/delete", ollama_models.handle_delete),
        (POST, "/api/copy", ollama_models.handle_copy),
        (POST, "/api/create", ollama_models.handle_unsupported),
        (POST, "/api/push", ollama_models.handle_unsupported),
        (("HEAD", "POST"), "/api/blobs/{id}", ollama_models.handle_unsupported),
    ),
)


def error_body_for(path: str, headers: Mapping[str, str]) -> ErrorBody:
    """Return the form of errors for a path, which need not exist."""
    if path.startswith("/v1/messages") or "anthropic-version" in headers:
        return anthropic.error_body
    if path.startswith("/api/") and not path.startswith("/api/v0/"):
        return ollama.error_body
    return openai.error_body
