"""What a router has in memory of the fleet: nodes, artifacts and their copies, orders, wishes.

No I/O: `watching` feeds it with the records of the buckets, and whoever decides reads it. A bucket
that is read from its start again replaces what was known of it once it has been read to its end.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from interlock import logs
from interlock_schemas import subjects
from interlock_schemas.artifacts import Artifact, StoreReport, Transport
from interlock_schemas.health import NodeHealth
from interlock_schemas.nodes import FLEET_KEY, Member, NodeRecord
from interlock_schemas.orders import EPOCH_KEY, Asked, Epoch, Leaving, Order, Pause, Policy
from interlock_sync_router.facts import Known, at_of, facts_of, is_paused, same_but_room
from interlock_sync_router.world import NodeFacts

__all__ = ["Holdings", "Receipt", "Roster", "Standing"]

T = TypeVar("T")

#: Facts that depend on the time are drawn anew after so long, seconds.
_FRESH_S: Final = 1.0

log = logs.get_logger("interlock.router")


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What the router reads of a `Copy`, of which there are very many."""

    state: str = "held"
    bytes: int = 0
    at: str = ""
    verified_at: str = ""
    seconds: float | None = None
    moved: int | None = None
    source: str | None = None
    transport: Transport | None = None
    order: str = ""


class Standing(msgspec.Struct, frozen=True):
    """An order as it stands in its bucket."""

    order: Order
    revision: int


class Holdings:
    """The inventory: artifacts, and who has a copy of which."""

    def __init__(self) -> None:
        self.artifacts: dict[str, Artifact] = {}
        self.told_at: dict[str, int] = {}
        """By artifact: the revision of its record, which is written once."""
        self.datasets: dict[str, dict[str, None]] = {}
        self.copies: dict[str, frozenset[str]] = {}
        self.held: Counter[str] = Counter()
        self.held_bytes: Counter[str] = Counter()
        self.stores: dict[str, StoreReport] = {}
        self.revision = 0
        #: The same few nodes have most artifacts: one set for all of those.
        self._sets: dict[frozenset[str], frozenset[str]] = {}

    def tell(self, about: Artifact, revision: int) -> None:
        """There is an artifact."""
        id = about.id
        if id in self.artifacts:
            return
        self.artifacts[id] = about
        self.told_at[id] = revision
        self.datasets.setdefault(sys.intern(about.dataset), {})[id] = None
        for node in self.copies.get(id, ()):
            self.held_bytes[node] += about.bytes

    def forget(self, id: str) -> None:
        """There is no such artifact any more."""
        about = self.artifacts.pop(id, None)
        if about is None:
            return
        self.told_at.pop(id, None)
        self.datasets[about.dataset].pop(id, None)
        for node in self.copies.get(id, ()):
            self.held_bytes[node] -= about.bytes

    def hold(self, node: str, id: str, held: bool) -> bool:
        """A node has a copy, or has none; whether that is news."""
        before = self.copies.get(id, frozenset())
        if (node in before) == held:
            return False
        after = before | {node} if held else before - {node}
        step = 1 if held else -1
        self.held[node] += step
        about = self.artifacts.get(id)
        if about is not None:
            self.held_bytes[node] += step * about.bytes
        if after:
            self.copies[id] = self._sets.setdefault(after, after)
        else:
            self.copies.pop(id, None)
        return True


class Roster:
    """Everything that is known. `dirty` are artifacts that something changed of since they were
    planned for; `all_dirty`: of any."""

    def __init__(self, driven: Callable[[NodeRecord], bool] = lambda _: False) -> None:
        self.driven = driven
        """Whether the router itself writes to a node: one with SSH and without an agent."""
        self.holdings = Holdings()
        self.orders: dict[tuple[str, str], Standing] = {}
        self.orders_revision = 0
        """So far the bucket of orders has been read."""
        self.by_node: Counter[str] = Counter()
        self.pending_bytes: Counter[str] = Counter()
        self.policies: dict[str, Policy] = {}
        self.asked: dict[str, Asked] = {}
        self.asked_at: dict[str, int] = {}
        """By request: the revision of its record."""
        self.pauses: dict[str, Pause] = {}
        self.leaving: dict[str, tuple[Leaving, int]] = {}
        self.epoch: Epoch | None = None
        self.epoch_revision = 0
        self.dirty: set[str] = set()
        self.all_dirty = True
        self.nodes: dict[str, Known] = {}
        self._facts: dict[str, NodeFacts] = {}
        self._facts_at = -1e18
        self._stale: set[str] = set()
        self.on_receipt: Callable[[str, str, Receipt], None] = lambda *_: None
        self.on_order: Callable[[str, str, Standing | None], None] = lambda *_: None
        self.on_change: Callable[[], None] = lambda: None

    # Nodes

    def known(self, name: str) -> Known:
        """The records of a node."""
        found = self.nodes.get(name)
        if found is None:
            found = self.nodes[sys.intern(name)] = Known()
        self._stale.add(name)
        return found

    def facts(self, now: float) -> Mapping[str, NodeFacts]:
        """The nodes as a plan sees them at `now`, epoch seconds. Not changed afterwards."""
        if now - self._facts_at >= _FRESH_S:
            self._stale |= set(self.nodes)
            self._facts_at = now
        if self._stale:
            facts = dict(self._facts)
            for name in self._stale:
                known = self.nodes.get(name)
                if known is None or known.empty:
                    if facts.pop(name, None) is not None:
                        self.all_dirty = True
                    continue
                record = known.record
                driven = record is not None and known.member is None and self.driven(record)
                drawn = facts_of(name, known, now, driven=driven)
                before = facts.get(name)
                if before is None or not same_but_room(before, drawn):
                    self.all_dirty = True
                facts[name] = drawn
            self._stale.clear()
            self._facts = facts
        return self._facts

    def on_node(self, key: str, body: bytes | None) -> None:
        """A description."""
        name = _name(key, "node.")
        if name is None or key == FLEET_KEY:
            return
        record = _read(key, body, NodeRecord)
        if body and record is None:
            return
        self.known(name).record = record
        self.on_change()

    def on_member(self, key: str, body: bytes | None) -> None:
        """A lease of an agent."""
        name = _name(key, "member.")
        if name is not None:
            self.known(name).member = _read(key, body, Member)
            self.on_change()

    def on_health(self, key: str, body: bytes | None) -> None:
        """A verdict of the monitor."""
        name = _name(key, "node.")
        if name is not None:
            self.known(name).health = _read(key, body, NodeHealth)
            self.on_change()

    # The inventory

    def on_inventory(self, key: str, body: bytes | None, revision: int) -> None:
        """A record of the inventory, now."""
        self.take_in(self.holdings, key, body, revision, news=True)

    def take_in(
        self, holdings: Holdings, key: str, body: bytes | None, revision: int, *, news: bool
    ) -> None:
        """A record of the inventory into `holdings`; `news`: something is to be made of it."""
        holdings.revision = max(holdings.revision, revision)
        kind, _, rest = key.partition(".")
        if kind == "copy":
            node_token, _, rest = rest.partition(".")
            self._on_copy(holdings, node_token, rest.partition(".")[2], body, news=news)
        elif kind == "artifact":
            about = _read(key, body, Artifact)
            if about is None and not body:
                holdings.forget(rest)
            elif about is not None and about.id == rest:
                holdings.tell(about, revision)
            if news:
                self.dirty.add(rest)
                self.on_change()
        elif kind == "store":
            name = subjects.untoken(rest)
            report = _read(key, body, StoreReport)
            if report is None:
                holdings.stores.pop(name, None)
            else:
                holdings.stores[name] = report
            if news:
                before = self.known(name).store
                self.known(name).store = report
                if (before is None) != (report is None):
                    self.on_change()

    def _on_copy(
        self, holdings: Holdings, token: str, id: str, body: bytes | None, *, news: bool
    ) -> None:
        node = _untoken(token)
        receipt = _read_receipt(body)
        changed = holdings.hold(node, id, receipt is not None and receipt.state == "held")
        if receipt is not None:
            self.on_receipt(node, id, receipt)
        if news and changed:
            self.dirty.add(id)
            self.on_change()

    def replace_holdings(self, holdings: Holdings) -> None:
        """The inventory was read from its start to its end."""
        self.holdings = holdings
        for name in {*self.nodes, *holdings.stores}:
            self.known(name).store = holdings.stores.get(name)
        self.all_dirty = True
        self.on_change()

    # Orders and wishes

    def on_orders(self, key: str, body: bytes | None, revision: int) -> None:
        """A record of the bucket of orders."""
        kind, _, rest = key.partition(".")
        if kind == "order":
            token, _, artifact = rest.partition(".")
            self._on_order(_untoken(token), artifact, _read(key, body, Order), revision)
        elif kind == "policy":
            self._put(self.policies, rest, _read(key, body, Policy))
            self.dirty.update(self.holdings.datasets.get(rest, ()))
        elif kind == "request":
            found = _read(key, body, Asked)
            self._put(self.asked, rest, found)
            self.asked_at[rest] = revision
            if found is not None:
                self.dirty.update(self.artifacts_of(found))
        elif kind == "pause":
            self._on_pause(subjects.untoken(rest), _read(key, body, Pause))
        elif kind == "evacuation":
            self._on_leaving(subjects.untoken(rest), _read(key, body, Leaving), revision)
        elif key == EPOCH_KEY:
            found_epoch = _read(key, body, Epoch)
            if found_epoch is not None:
                self.epoch = found_epoch
            self.epoch_revision = revision
            return
        self.on_change()

    def _put(self, where: dict[str, T], key: str, value: T | None) -> None:
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value

    def _on_order(self, node: str, artifact: str, order: Order | None, revision: int) -> None:
        key = (node, artifact)
        before = self.orders.get(key)
        if before is not None and before.revision >= revision:
            return
        self._drop_order(key)
        standing = None
        if order is not None:
            standing = self.orders[key] = Standing(order, revision)
            self.by_node[node] += 1
            self.pending_bytes[node] += order.about.bytes if order.action == "fetch" else 0
        self.dirty.add(artifact)
        self.on_order(node, artifact, standing)

    def ordered(self, node: str, artifact: str, order: Order | None, revision: int) -> None:
        """An order was written, or taken away, by us, which the bucket will say too. Where it has
        already said what came after, there is nothing to note."""
        if revision > self.orders_revision:
            self._on_order(node, artifact, order, revision)

    def _drop_order(self, key: tuple[str, str]) -> None:
        before = self.orders.pop(key, None)
        if before is not None:
            order = before.order
            self.by_node[key[0]] -= 1
            self.pending_bytes[key[0]] -= order.about.bytes if order.action == "fetch" else 0

    def _on_pause(self, scope: str, pause: Pause | None) -> None:
        self._put(self.pauses, scope, pause)
        kind, _, name = scope.partition(":")
        if kind == "node":
            self.known(name).pause = pause
        self.all_dirty = True

    def _on_leaving(self, node: str, leaving: Leaving | None, revision: int) -> None:
        if leaving is None:
            self.leaving.pop(node, None)
            self.known(node).leaving_at = None
        else:
            self.leaving[node] = (leaving, revision)
            # From then on it is the monitor's word that counts.
            self.known(node).leaving_at = at_of(leaving.deadline_at)

    def orders_begin(self) -> None:
        """The bucket of orders is read from its start: what does not come again is gone."""
        for key in list(self.orders):
            self._drop_order(key)
        self.policies.clear()
        self.asked.clear()
        for scope in list(self.pauses):
            self._on_pause(scope, None)
        for node in list(self.leaving):
            self._on_leaving(node, None, 0)
        self.orders_revision = 0
        self.all_dirty = True

    def orders_read(self, revision: int) -> None:
        """The bucket of orders has been read so far."""
        self.orders_revision = max(self.orders_revision, revision)

    # What is asked of it

    def artifacts_of(self, asked: Asked) -> Iterable[str]:
        """What a request is about, of what is known."""
        request = asked.request
        holdings = self.holdings
        if request.artifacts:
            return [id for id in request.artifacts if id in holdings.artifacts]
        return [
            id
            for id in self.matching(request.dataset, request.config)
            if holdings.told_at[id] <= asked.revision
        ]

    def matching(self, dataset: str | None, config: str | None) -> Iterable[str]:
        """Artifacts of a dataset, of a configuration; None: of any."""
        holdings = self.holdings
        ids: Iterable[str] = (
            holdings.artifacts if dataset is None else holdings.datasets.get(dataset, {})
        )
        if config is None:
            return ids
        return [id for id in ids if holdings.artifacts[id].config == config]

    def paused(self, scope: str, now: float) -> bool:
        """Whether a scope is paused."""
        return is_paused(self.pauses.get(scope), now)

    def paused_datasets(self, now: float) -> frozenset[str]:
        """Datasets that are paused."""
        return frozenset(
            scope.removeprefix("dataset:")
            for scope, pause in self.pauses.items()
            if scope.startswith("dataset:") and is_paused(pause, now)
        )


_names: dict[str, str] = {}


def _untoken(token: str) -> str:
    found = _names.get(token)
    if found is None:
        found = _names[token] = sys.intern(subjects.untoken(token))
    return found


def _name(key: str, prefix: str) -> str | None:
    return _untoken(key.removeprefix(prefix)) or None if key.startswith(prefix) else None


_receipts = msgspec.json.Decoder(Receipt)


def _read_receipt(body: bytes | None) -> Receipt | None:
    if not body:
        return None
    try:
        return _receipts.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("a receipt makes no sense, and counts as none", why=str(error))
        return None


def _read(key: str, body: bytes | None, type: type[T]) -> T | None:
    if not body:
        return None
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, RecursionError) as error:
        log.warning("a record makes no sense", key=key, why=str(error))
        return None
