"""A connection that may not stand yet: it is made in the background, and anew if it ends for good.

For whoever has something useful to do without a broker, which is a worker with an outbox.
"""

import asyncio
import random

from interlock import endpoint, logs
from interlock.backoff import delay_s
from interlock.bus import Bus, connect
from interlock.errors import BusUnavailable, InterlockError
from interlock.settings import ConnectionSettings

__all__ = ["Link"]

_RETRY_BASE_S = 0.5
_RETRY_CAP_S = 5.0

log = logs.get_logger("interlock.link")


class Link:
    """A `Bus` to be. `run` makes it."""

    def __init__(self, settings: ConnectionSettings | None = None, *, name: str) -> None:
        """Raises ConnectFailed where the settings name no broker that could ever answer."""
        self._settings = settings or ConnectionSettings()
        endpoint.resolve(self._settings)
        self._name = name
        self._bus: Bus | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._why = "the first attempt is under way"

    @property
    def bus(self) -> Bus:
        """The connection. Raises BusUnavailable while there is none."""
        bus = self._bus
        if bus is None or bus.client.is_closed:
            self._changed.clear()
            self._ended.set()
            raise BusUnavailable(f"there is no connection to the broker yet: {self._why}")
        return bus

    async def wait(self, timeout_s: float | None = None) -> Bus:
        """The connection, as soon as it was made. Raises BusUnavailable after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    try:
                        return self.bus
                    except BusUnavailable:
                        await self._changed.wait()
        except TimeoutError:
            raise BusUnavailable(
                f"there is no connection to the broker after {timeout_s:g} s: {self._why}"
            ) from None

    async def run(self) -> None:
        """Connect, for as long as it takes; connect again when the connection has ended."""
        while True:
            self._bus = bus = await self._connect()
            self._changed.set()
            while not bus.client.is_closed:
                self._ended.clear()
                await self._ended.wait()

    async def _connect(self) -> Bus:
        attempt = 0
        while True:
            attempt += 1
            try:
                return await connect(self._settings, name=self._name)
            except InterlockError as error:
                if str(error) != self._why:
                    log.info("no connection yet, trying on", why=str(error))
                self._why = str(error)
            await asyncio.sleep(
                delay_s(
                    attempt,
                    base_s=_RETRY_BASE_S,
                    cap_s=_RETRY_CAP_S,
                    rand=random.random,
                    jitter="equal",
                )
            )

    async def close(self) -> None:
        """Send what waits and disconnect."""
        bus, self._bus = self._bus, None
        self._why = "it was closed"
        if bus is not None:
            await bus.close()
