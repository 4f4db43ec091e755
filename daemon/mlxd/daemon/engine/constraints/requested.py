"""Compiles the constraint of a request for one model's tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from mlxd.daemon.engine.constraints.compiler import Constraint, ConstraintCompiler
from mlxd.daemon.engine.constraints.tool_choice import CallForm, Tool, call_source
from mlxd.daemon.engine.generation import GenerationParams
from mlxd.daemon.engine.mlx_lm_private import hf_tokenizer
from mlxd.protocol.errors import ConstraintInvalid


class RequestedConstraints:
    """Compiles the constraints of one model's requests. Its compiler is created for the first of
    them."""

    def __init__(
        self,
        wrapper: Any,
        *,
        token_ids: int,
        control_tokens: Mapping[str, int],
        pool: ThreadPoolExecutor,
    ) -> None:
        self._wrapper = wrapper
        self._token_ids = token_ids
        self._control_tokens = control_tokens
        self._pool = pool
        self._made: ConstraintCompiler | None = None
        self._lock = threading.Lock()

    def begin(self, params: GenerationParams) -> Future[Constraint] | None:
        """Start to compile the constraint of the answer. Return None if there is none.

        Raises:
            ConstraintInvalid: constraints do not work with this tokenizer.
            InvalidParams: a tool call is required, but the format of the model's calls is unknown.
        """
        if tools := params.tools.forced:
            return self.compiler().begin("tool_choice", self._call_source(tools))
        if (source := params.constraint) is not None:
            return self.compiler().begin(source.kind, source.source)
        return None

    def _call_source(self, tools: Sequence[Tool]) -> dict[str, Any]:
        wrapper = self._wrapper
        calls = bool(wrapper.has_tool_calling)
        form = CallForm(
            parser=wrapper.tool_parser.__module__.rpartition(".")[2] if calls else "",
            start=wrapper.tool_call_start or "",
            end=wrapper.tool_call_end or "",
            vocabulary=self._control_tokens,
        )
        try:
            lark, notes = call_source(form, tools)
        except ValueError as exc:
            raise ConstraintInvalid(f"The schema of a tool is not supported: {exc}") from exc
        return {"lark": lark, "notes": notes}

    def compiler(self) -> ConstraintCompiler:
        """Return the compiler for this tokenizer. The first call creates it."""
        with self._lock:  # requests are tokenized on two threads
            if self._made is None:
                self._made = ConstraintCompiler(
                    hf_tokenizer(self._wrapper),
                    self._token_ids,
                    sorted(self._wrapper.eos_token_ids),
                    self._pool,
                    control_tokens=self._control_tokens,
                )
            return self._made
