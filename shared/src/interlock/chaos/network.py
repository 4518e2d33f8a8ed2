"""The network of a local cluster: a proxy before each server, and one each way between servers."""

import contextlib
from collections.abc import AsyncIterator
from typing import Final

from interlock.broker import free_port
from interlock.chaos.proxy import Proxy, Slow
from interlock.chaos.schedule import Scope
from interlock.cluster import LocalCluster

__all__ = ["Network"]

_HOST: Final = "127.0.0.1"


class Network:
    """All ways that lead to and between the servers of one cluster."""

    def __init__(self, cluster: LocalCluster) -> None:
        """Prepares the cluster so that it is reached through here. It must not run yet."""
        cluster.prepare()
        ports = [server.ports for server in cluster.servers]
        taken = {port for each in ports for port in (each.client, each.route, each.monitor)}

        def another() -> int:
            while (port := free_port()) in taken:
                pass
            taken.add(port)
            return port

        self.clients = tuple(Proxy(another(), each.client) for each in ports)
        """Before each server, for its clients."""
        self.routes = {
            (source, target): Proxy(another(), each.route)
            for source in range(len(ports))
            for target, each in enumerate(ports)
            if source != target
        }
        """By the server that connects and the server that it reaches, numbers from 0."""
        if self.routes:
            cluster.prepare({pair: proxy.port for pair, proxy in self.routes.items()})
        cluster.client_urls = tuple(f"nats://{_HOST}:{proxy.port}" for proxy in self.clients)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Network"]:
        """Carry connections while the block lasts."""
        async with contextlib.AsyncExitStack() as stack:
            for proxy in (*self.clients, *self.routes.values()):
                await stack.enter_async_context(proxy.running())
            yield self

    def of(self, server: int, scope: Scope = "all") -> list[Proxy]:
        """What leads to or from one server."""
        found = []
        if scope != "routes":
            found.append(self.clients[server])
        if scope != "clients":
            found += [proxy for pair, proxy in self.routes.items() if server in pair]
        return found

    def cut(self, server: int, scope: Scope = "all") -> None:
        """Cut a server off: connections are reset and refused."""
        for proxy in self.of(server, scope):
            proxy.cut()

    def hold(self, server: int, scope: Scope = "all") -> None:
        """Cut a server off without a word: nothing gets through, nobody is told."""
        for proxy in self.of(server, scope):
            proxy.hold()

    def slow(self, server: int, how: Slow, scope: Scope = "all") -> None:
        """Make the ways of one server slow."""
        for proxy in self.of(server, scope):
            proxy.slow(how)

    async def heal(self, server: int, *, deliver: bool = True) -> None:
        """Mend all ways of one server; see `Proxy.heal`."""
        for proxy in self.of(server):
            await proxy.heal(deliver=deliver)
