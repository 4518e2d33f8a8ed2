"""Decides whether an agent may take the lease of its node, or has lost it. Pure."""

from typing import Literal

from interlock_schemas.nodes import Member

__all__ = ["Presence", "Tenure", "judge", "refusal"]

#: What became of a question to the agent that holds the lease. ``nobody``: no connection listens.
Presence = Literal["answers", "silent", "nobody"]

#: ``ours``: the lease is ours already. ``take``: it may be taken. ``ask``: the agent that holds it
#: is to be asked first. ``refuse``: it is somebody else's.
Tenure = Literal["ours", "take", "ask", "refuse"]


def judge(standing: Member | None, instance: str, presence: Presence | None) -> Tenure:
    """What to do about the lease as it stands. `presence` None: nobody was asked yet.

    Where no connection listens, whoever held it has ended. Should it come back from a cut network,
    its renewal finds another instance, and it ends.
    """
    if standing is None:
        return "take"
    if standing.instance == instance:
        return "ours"
    if presence is None:
        return "ask"
    return "take" if presence == "nobody" else "refuse"


def refusal(standing: Member, presence: Presence, ttl_s: int) -> str:
    """Why an agent does not start, and what to do next."""
    since = f" since {standing.since}" if standing.since else ""
    host = f" on host {standing.host}" if standing.host else ""
    who = f"agent {standing.instance}{host}{since}"
    if presence == "silent":
        return (
            f"node {standing.node} is held by {who}, which is connected and does not answer: end "
            f"it, or wait until its lease ends, within {ttl_s} s"
        )
    return (
        f"node {standing.node} has an agent already, {who}: stop that one first "
        f"(`interlock agent leave --node {standing.node}`), or give this host a name of its own "
        "with --node or INTERLOCK_NODE"
    )
