"""Which messages a stream holds already, asked of the broker by their ids."""

import asyncio
import time
from collections.abc import Sequence, Set

from interlock.bus import ApiError, Bus
from interlock.clock import rfc3339_ns
from interlock.errors import BusUnavailable, ContractBroken
from interlock.outbox.rules import subject_filters
from interlock.reader import Reader
from interlock_schemas import envelope

__all__ = ["NoStream", "duplicate_window", "stored"]

#: A look-up that hears nothing for so long is given up, and made again later.
_SILENT_S = 20.0


class NoStream(ContractBroken):
    """The broker has streams, and none of them takes the subject."""


async def duplicate_window(bus: Bus, subject: str) -> tuple[str, float]:
    """The stream that takes a subject, and for how many seconds it remembers ids.

    Raises ContractBroken where no stream takes it, `NoStream` where others stand, and
    BusUnavailable.
    """
    try:
        names = (await bus.api("STREAM.NAMES", {"subject": subject})).get("streams") or []
        if not names:
            # A broker without any stream has not been set up yet, and will be.
            if (await bus.api("STREAM.NAMES")).get("streams"):
                raise NoStream(f"no stream takes {subject}")
            raise ContractBroken(f"no stream takes {subject}: run `interlock setup`")
        info = await bus.api(f"STREAM.INFO.{names[0]}")
    except ApiError as error:
        raise ContractBroken(f"cannot look up the stream of {subject}: {error}") from error
    return names[0], info["config"]["duplicate_window"] / 1e9


async def stored(
    bus: Bus, stream: str, subjects: Sequence[str], ids: Set[str], *, since_ns: int
) -> set[str]:
    """Those of `ids` that the stream has stored under these subjects since then.

    Raises BusUnavailable when the broker falls silent.
    """
    whole_s = max(0, since_ns // 1_000_000_000)
    start = {"deliver_policy": "by_start_time", "opt_start_time": rfc3339_ns(whole_s * 10**9)}
    reader = Reader(bus, stream, subject_filters(subjects), start, headers_only=True)
    found: set[str] = set()
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SILENT_S) as silence:
            async for record in reader.records(until_end=True):
                silence.reschedule(loop.time() + _SILENT_S)
                id = envelope.lookup(record.headers, envelope.MSG_ID)
                if id is not None and id in ids:
                    found.add(id)
    except TimeoutError as error:
        raise BusUnavailable(
            f"the broker fell silent while {stream} was searched for what has arrived "
            f"({time.monotonic() - began:.0f} s): may this account create consumers on {stream}?"
        ) from error
    return found
