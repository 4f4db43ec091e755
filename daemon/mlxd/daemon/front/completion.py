"""The front's record of one completion request."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from mlxd.daemon.front.recorder import Recording
from mlxd.daemon.front.server.connection import RequestInFlight
from mlxd.protocol.messages import Notification


@dataclass(slots=True, eq=False)
class Completion:
    """One completion request that the engine works on."""

    rid: int
    request: RequestInFlight
    method: str
    params: dict[str, Any]
    model: dict[str, Any]
    recording: Recording | None = None
    result: dict[str, Any] | None = None  # complete, and only the disk is waited for
    started_s: float = field(default_factory=time.monotonic)
    begun: bool = False
    """Whether the engine has begun to compute the prompt."""
    output: bool = False
    replays: int = 0
    suspect_deaths: int = 0
    """Engine deaths that this request may have caused."""
    other_deaths: int = 0
    """Engine deaths before any request was computed."""
    ending: str = ""
    timer: asyncio.TimerHandle | None = None

    def submit_message(self) -> Notification:
        """Return the message that submits the request to the engine."""
        return Notification(
            "submit",
            {
                "rid": self.rid,
                "method": self.method,
                "params": self.params,
                "model": self.model,
                "conn": self.request.conn.serial,
                "priority": self.params["priority"],
                "deadline_s": self.params["deadline_s"],
            },
        )
