"""The daemon's background tasks: preload models, upgrade, check after a sleep, keep files."""

from __future__ import annotations

import asyncio

from mlxd.daemon.front import handover, upkeep
from mlxd.daemon.front.server.accepting import Accepting
from mlxd.daemon.front.server.admission import Admission
from mlxd.daemon.front.services import Services
from mlxd.daemon.stderr import error_summary
from mlxd.daemon.version import version
from mlxd.protocol.errors import MlxdError

CANARY_TIMEOUT_S = 30.0
"""Time limit for one token after a sleep, in seconds. The weights may have to come back from
swap."""


async def preload(services: Services) -> None:
    """Load the default model, and the models that were loaded before a restart."""
    wanted = handover.noted_models(services.paths.resume_file)
    if services.config.preload and not wanted:
        wanted = [{"model": None, "keep_alive_s": None, "pin": None}]
    for one in wanted:
        try:
            ref = await services.models.find(services.catalog, one)
            params = {"model": ref.to_map(), "keep_alive_s": one["keep_alive_s"],
                      "pin": one["pin"]}  # fmt: skip
            result = await services.supervisor.call("load", params)
            services.log("preloaded", model=result["model"], load_s=result["load_s"])
        except MlxdError as error:
            services.log("preload failed", level="warning", code=error.code, message=error.message)
        except Exception as exc:  # the other models are still loaded
            services.log("preload failed", level="error", error=error_summary(exc))


class Duties:
    """Runs the tasks of `upkeep.watch` for as long as the daemon serves."""

    def __init__(
        self,
        services: Services,
        accepting: Accepting,
        admission: Admission,
        sleep: upkeep.SleepWatch,
        upgrades: upkeep.UpgradeWatch,
    ) -> None:
        self._services = services
        self._accepting = accepting
        self._admission = admission
        self._sleep = sleep
        self._upgrades = upgrades

    async def run(self) -> None:
        """Watch until cancelled."""
        log = self._services.log
        await upkeep.watch(
            upgrade_check_s=self._services.config.upgrade_check_s,
            idle=self._idle,
            upgrade=self._upgrade,
            refused=lambda: log("upgrade does not start", level="warning"),
            woke=self._woke,
            failed=lambda exc: log("upkeep failed", level="error", error=error_summary(exc)),
            sleep=self._sleep,
            upgrades=self._upgrades,
            also=self._every_few_seconds,
        )

    def _idle(self) -> bool:
        services = self._services
        return not (
            len(services.requests) or services.hub.running or services.lifecycle.stop.is_set()
        )

    async def _every_few_seconds(self) -> None:
        services = self._services
        services.awake.keep(working=bool(len(services.requests) or services.hub.running))
        self._services.recorder.look()
        if not await self._accepting.keep(self._admission.connection):
            self._leave(None)

    def _upgrade(self) -> None:
        """Stop, so that the program on disk can replace this process."""
        self._services.log("upgrading", version=version())
        self._services.lifecycle.upgrading = True
        self._leave(0.0)

    def _leave(self, drain_s: float | None) -> None:
        services = self._services
        handover.keep_models(services.paths.resume_file, services.supervisor.loaded_models,
                             services.log)  # fmt: skip
        services.lifecycle.begin_shutdown(drain_s)

    async def _woke(self) -> None:
        """After a sleep, the daemon is not "ready" before the engine has decoded a token."""
        supervisor, lifecycle = self._services.supervisor, self._services.lifecycle
        if not supervisor.running:
            return
        lifecycle.checking = True
        try:
            await asyncio.wait_for(supervisor.call("canary", {}), CANARY_TIMEOUT_S)
            self._services.log("woke", canary="ok")
        except (TimeoutError, MlxdError) as exc:
            self._services.log("woke", level="warning", canary=type(exc).__name__)
            supervisor.replace("no token after the machine woke up")
        finally:
            lifecycle.checking = False
