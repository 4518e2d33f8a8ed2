"""etcd's lock service, through the JSON gateway that etcd itself serves.

No asyncio client of etcd is kept up, and the gateway needs none: one HTTP connection a client, kept
open, and one lease a client, used for all of its locks. What the detour costs is measured beside
it, as the round trip of a read that asks no other server and touches no disk.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from interlock.bench.locks import raw
from interlock.errors import InterlockError

__all__ = ["connect"]

_LEASE_S: Final = 900
_POLL_S: Final = 0.001
#: A watch that begins with the present revision is fed by a loop that runs every 0.1 s (etcd 3.4
#: and 3.5), and is quick only from then on. Locks are mostly held for longer, so the hand-over is
#: measured then.
_WATCHED_S: Final = 0.12
_VALUE: Final = base64.b64encode(raw.VALUE).decode()


class GatewayError(InterlockError):
    """etcd refused, or does not speak as expected."""


class _Gateway:
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self, path: str, **body: Any) -> dict[str, Any]:
        payload = msgspec.json.encode(body)
        head = (
            f"POST /v3/{path} HTTP/1.1\r\nHost: etcd\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(payload)}\r\n\r\n"
        )
        self._writer.write(head.encode() + payload)
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in map(_parted, lines)}
        if "content-length" not in headers:
            raise GatewayError(f"etcd's answer to {path} does not tell its length: {status}")
        answer = await self._reader.readexactly(int(headers["content-length"]))
        if status.split(" ")[1] != "200":
            raise GatewayError(f"etcd refused {path}: {status}: {answer.decode()}")
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found


class _Etcd:
    """See `interlock.bench.locks.contender`."""

    def __init__(self, gateway: _Gateway, lease: str) -> None:
        self._gateway = gateway
        self._lease = lease
        self.others = {"raw_kv_put": self._put, "round_trip": self._read}

    async def take(self, name: str) -> str:
        answer = await self._gateway.call("lock/lock", name=_encoded(name), lease=self._lease)
        key: str = answer["key"]
        return key

    wait_for = take

    async def release(self, held: str) -> None:
        await self._gateway.call("lock/unlock", key=held)

    async def until_waited_for(self, name: str) -> None:
        # A key for the holder and one for each waiter, below the name.
        below = {"key": _encoded(f"{name}/"), "range_end": _encoded(f"{name}0")}
        while True:
            answer = await self._gateway.call("kv/range", **below, count_only=True)
            if int(answer.get("count", 0)) > 1:
                break
            await asyncio.sleep(_POLL_S)
        await asyncio.sleep(_WATCHED_S)

    async def until_passed_on(self, name: str) -> None:  # noqa: ARG002  # it has a queue
        return

    async def _put(self) -> None:
        await self._gateway.call("kv/put", key=_encoded(f"raw/{self._lease}"), value=_VALUE)

    async def _read(self) -> None:
        await self._gateway.call("kv/range", key=_encoded("absent"), serializable=True)


@contextlib.asynccontextmanager
async def connect(where: str, number: int) -> AsyncIterator[_Etcd]:  # noqa: ARG001  # as all
    """A connection to the gateway at ``host:port``, with a lease."""
    host, _, port = where.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        gateway = _Gateway(reader, writer)
        lease = await gateway.call("lease/grant", TTL=str(_LEASE_S))
        yield _Etcd(gateway, lease["ID"])
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _parted(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
