"""Everything on this machine: the embedded broker and each service as its own process.

`interlock up` and `interlock demo` run this. It owns the state folder while it lasts, ends what an
earlier run left behind, and keeps the record of what runs, by which other commands find the broker.
"""

import asyncio
import contextlib
import datetime
import functools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec
from pydantic import SecretStr

from interlock import provisioning, state
from interlock.broker import NAME as BROKER
from interlock.broker import BrokerError, EmbeddedBroker
from interlock.bus import Bus, connected
from interlock.discovery import contracts
from interlock.endpoint import SYSTEM_USER
from interlock.errors import BusUnavailable
from interlock.settings import ConnectionSettings
from interlock.supervisor import Child, ProcessEvent, Supervisor
from interlock_schemas.contracts import Contract

__all__ = ["BROKER", "LocalFleet", "local_fleet"]

_START_TRIES = 3


class LocalFleet(msgspec.Struct, frozen=True):
    """What runs, and how to reach it."""

    supervisor: Supervisor
    settings: ConnectionSettings
    env: dict[str, str]
    """What a process needs in its environment to connect."""
    services: tuple[str, ...]


async def _answers(bus: Bus, service: str) -> None:
    """Return once the service answers its ping."""
    while True:
        try:
            await bus.request(f"$SRV.PING.{service}", b"", timeout_s=1.0)
        except BusUnavailable:
            await asyncio.sleep(0.1)
        else:
            return


@contextlib.asynccontextmanager
async def local_fleet(
    folder: Path,
    *,
    port: int | None = None,
    services: Sequence[Contract] | None = None,
    on_event: Callable[[ProcessEvent], None] | None = None,
) -> AsyncIterator[LocalFleet]:
    """Run the broker and the services for as long as the block lasts, then drain them.

    Raises StateLockedError when another process owns the folder, BrokerError when there is no
    broker to be had or it does not start, and ContractBroken when the store holds something else
    than declared.
    """
    chosen = list(services) if services is not None else contracts()
    with state.hold_state(folder):
        await state.stop_leftovers(folder)
        broker = EmbeddedBroker(folder, port=port)
        child = broker.child()
        started = datetime.datetime.now(datetime.UTC)

        serving = asyncio.get_running_loop().create_future()
        failed_starts = 0

        def judge_broker(event: ProcessEvent) -> None:
            """A broker that serves is kept alive for ever; one that never did is given up."""
            nonlocal failed_starts
            if event.name != BROKER or serving.done():
                return
            if event.state == "running":
                serving.set_result(None)
            elif event.state == "backing_off":
                failed_starts += 1
                if failed_starts >= _START_TRIES:
                    why = event.reason or f"it ended with {event.exit_code}"
                    serving.set_exception(
                        BrokerError(f"the broker does not start: {why}. Its log: {broker.log_path}")
                    )

        def record(event: ProcessEvent) -> None:
            state.write_run(
                folder,
                state.this_run(
                    url=broker.url,
                    started=started,
                    broker_version=broker.version,
                    processes=supervisor.processes(),
                ),
            )
            if on_event is not None:
                on_event(event)
            judge_broker(event)

        supervisor = Supervisor(folder, on_event=record)
        settings = ConnectionSettings(
            nats_url=broker.url,
            nats_user=broker.user,
            nats_password=SecretStr(broker.password),
            nats_system_user=SYSTEM_USER,
            nats_system_password=SecretStr(broker.password),
            state=folder,
        )
        env = {
            "INTERLOCK_NATS_URL": broker.url,
            "INTERLOCK_NATS_USER": broker.user,
            "INTERLOCK_NATS_PASSWORD": broker.password,
            "INTERLOCK_NATS_SYSTEM_USER": SYSTEM_USER,
            "INTERLOCK_NATS_SYSTEM_PASSWORD": broker.password,
            "INTERLOCK_STATE": str(folder),
        }
        try:
            async with supervisor:
                supervisor.start(child)
                await serving
                async with connected(settings, name="interlock-up") as bus:
                    # All of the declared consumers, also those of services that are not run here:
                    # what they are owed is kept for them.
                    await provisioning.apply(bus, contracts())
                    for contract in chosen:
                        supervisor.start(
                            Child(
                                name=contract.name,
                                command=[sys.executable, "-m", contract.module],
                                env=env,
                                ready=functools.partial(_answers, bus, contract.name),
                                stop_grace_s=30.0,
                            )
                        )
                    yield LocalFleet(
                        supervisor, settings, env, tuple(contract.name for contract in chosen)
                    )
                    await supervisor.drain()
        finally:
            state.clear_run(folder)
