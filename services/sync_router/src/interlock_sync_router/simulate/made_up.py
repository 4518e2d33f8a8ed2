"""A fleet and its artifacts, made up from a seed: what a plan is tried and measured on."""

from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random
from typing import Final

from interlock_schemas.artifacts import Artifact
from interlock_schemas.orders import Policy
from interlock_sync_router.planner import plan
from interlock_sync_router.world import Limits, NodeFacts, Plan, World

__all__ = ["EPOCH", "POLICIES", "artifact", "nodes_of", "planned", "world"]

#: When the made-up present is, seconds since the epoch.
EPOCH: Final = 1_790_000_000.0
_GB: Final = 10**9
_CONFIGS: Final = tuple(f"{b}_{n}p" for b in ("hex8", "square8", "square19") for n in (2, 3, 4))

POLICIES: Final[Mapping[str, Policy]] = {
    "games": Policy(dataset="games", copies=2),
    "checkpoints": Policy(dataset="checkpoints", copies=3, priority="high"),
    "npz": Policy(dataset="npz", copies=2, targets=("role:trainer",)),
    "models": Policy(dataset="models", copies=2, targets=("all",), priority="high"),
}

#: Dataset, its share, the size of an artifact in bytes at the least and at the most.
_KINDS: Final = (
    ("games", 0.8, 10**6, 100 * 10**6),
    ("checkpoints", 0.1, 50 * 10**6, 500 * 10**6),
    ("npz", 0.095, 50 * 10**6, 500 * 10**6),
    ("models", 0.005, 15 * 10**6, 300 * 10**6),
)


def nodes_of(count: int, random: Random) -> dict[str, NodeFacts]:
    """So many nodes in four zones, four in ten of them spot nodes."""
    found = {}
    for i in range(count):
        total = random.choice((2_000, 4_000, 8_000)) * _GB
        name = f"n{i:04}"
        found[name] = NodeFacts(
            name=name,
            zone=f"z{i % 4}",
            roles=frozenset({"trainer"} if i % 50 == 0 else {"selfplay"}),
            ephemeral=i % 5 in (1, 3),
            total_bytes=total,
            free_bytes=int(total * random.uniform(0.3, 0.9)),
        )
    return found


def artifact(number: int, origin: str, sealed_at: float, random: Random) -> Artifact:
    """One artifact that was sealed on a node."""
    kind, _, least, most = random.choices(_KINDS, [each[1] for each in _KINDS])[0]
    return Artifact(
        id=f"{random.getrandbits(256):064x}",
        dataset=kind,
        config=random.choice(_CONFIGS),
        name=f"{kind}-{number}",
        bytes=int(least * (most / least) ** random.random()),
        origin=origin,
        sealed_at=datetime.fromtimestamp(sealed_at, UTC).isoformat(timespec="milliseconds"),
        value=float(random.randrange(1_000)),
    )


def world(nodes: int, artifacts: int, seed: int = 1, *, short: float = 0.02) -> World:
    """A fleet with its artifacts, of which a share of `short` lacks copies."""
    random = Random(seed)  # noqa: S311
    fleet = nodes_of(nodes, random)
    names = list(fleet)
    everybody = frozenset(names)
    safe = [name for name in names if not fleet[name].ephemeral]
    trainers = frozenset(name for name in names if "trainer" in fleet[name].roles)
    by_zone = {
        zone: [n for n in safe if fleet[n].zone == zone] for zone in ("z0", "z1", "z2", "z3")
    }
    zones = [zone for zone, members in by_zone.items() if members]
    abouts: dict[str, Artifact] = {}
    copies: dict[str, frozenset[str]] = {}
    for i in range(artifacts):
        origin = names[random.randrange(nodes)]
        about = artifact(i, origin, EPOCH - 86_400 + 86_000 * i / artifacts, random)
        abouts[about.id] = about
        if random.random() < short:
            copies[about.id] = frozenset({origin})
            continue
        policy = POLICIES[about.dataset]
        if policy.targets == ("all",):
            copies[about.id] = everybody
            continue
        held = {random.choice(by_zone[zone]) for zone in random.sample(zones, min(3, len(zones)))}
        copies[about.id] = frozenset(held | {origin} | (trainers if policy.targets else set()))
    return World(now=EPOCH, nodes=fleet, artifacts=abouts, copies=copies, policies=dict(POLICIES))


def planned(nodes: int, artifacts: int, seed: int = 1, limits: Limits | None = None) -> Plan:
    """The first plan for such a fleet."""
    return plan(world(nodes, artifacts, seed), limits)
