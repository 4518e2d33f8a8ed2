"""What a node's state means for its recovery: which kind of trouble it is, and where to begin.

A kind of trouble has a first step on the ladder; what no restart can mend begins, and ends, with
calling a person. What goes by itself, such as load, is none.
"""

from typing import Final, Literal

from interlock_schemas.health import State

__all__ = ["FIRST_STEP", "LADDER", "ON_NODE", "Kind", "Step", "trouble_of", "well", "worse"]

Step = Literal["restart_agent", "restart_services", "reboot", "reprovision", "call"]

#: From the mildest to the last.
LADDER: Final[tuple[Step, ...]] = (
    "restart_agent",
    "restart_services",
    "reboot",
    "reprovision",
    "call",
)

#: The steps whose command runs on the node, over SSH.
ON_NODE: Final[frozenset[Step]] = frozenset(("restart_agent", "restart_services", "reboot"))

#: ``gone``: lost, or its agent is. ``gpu``: a driver or a board. ``work``: it does its work badly.
#: ``person``: nothing that can be started helps.
Kind = Literal["gone", "gpu", "work", "person"]

#: The worst first: it is what an episode is about.
_ORDER: Final[tuple[Kind, ...]] = ("gone", "gpu", "work", "person")

FIRST_STEP: Final[dict[Kind, Step]] = {
    "gone": "restart_agent",
    "gpu": "reboot",
    "work": "restart_services",
    "person": "call",
}

_KINDS: Final[dict[str, Kind]] = {
    "agent_gone": "gone",
    "gpu_fault": "gpu",
    "gpu_ecc": "gpu",
    "gpu_library": "gpu",
    "gpu_missing": "gpu",
    "no_progress": "work",
    "work_fails": "work",
    "clock_skew": "person",
    "disk_fault": "person",
    "disk_full": "person",
    "disk_read_only": "person",
    "gpu_hot": "person",
    "gpu_rows": "person",
    "heartbeat_invalid": "person",
    "no_checkpoint": "person",
}


def _kinds_of(state: State, symptoms: frozenset[str]) -> frozenset[Kind]:
    """Every kind of trouble of a node, by its state and the words for what is wrong with it."""
    if state == "lost":
        return frozenset(("gone",))
    if state != "degraded":
        return frozenset()
    return frozenset(_KINDS[each] for each in symptoms if each in _KINDS)


def trouble_of(state: State, symptoms: frozenset[str]) -> Kind | None:
    """What an episode would be about; None where nothing is to be done."""
    found = _kinds_of(state, symptoms)
    return next((kind for kind in _ORDER if kind in found), None)


def well(trouble: str, state: State, symptoms: frozenset[str]) -> bool:
    """Whether a trouble is over: the node answers, and what is still wrong is something else.

    What is suspect, not known, or has yet to prove itself is not well, and not bad either.
    """
    if state == "healthy":
        return True
    found = _kinds_of(state, symptoms)
    return state == "degraded" and trouble not in found and "gone" not in found


def worse(kind: Kind, than: str) -> bool:
    """Whether one kind of trouble is worse than another."""
    names: tuple[str, ...] = _ORDER
    return than not in names or names.index(kind) < names.index(than)
