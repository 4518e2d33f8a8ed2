"""The services that are installed here, found by the entry points of their distributions.

The kit imports no service: it only ever sees their contracts.
"""

from importlib.metadata import entry_points

from interlock.errors import InterlockError
from interlock_schemas.contracts import Contract

__all__ = ["contracts", "select"]

GROUP = "interlock.services"


def contracts() -> list[Contract]:
    """The contract of each installed service, sorted by name."""
    found = [point.load() for point in entry_points(group=GROUP)]
    return sorted(found, key=lambda contract: contract.name)


def select(names: list[str]) -> list[Contract]:
    """The contracts of the named services; all of them when no name is given.

    Raises InterlockError for a name that is not installed.
    """
    known = {contract.name: contract for contract in contracts()}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InterlockError(
            f"no such service: {', '.join(unknown)}. Installed: {', '.join(known) or 'none'}"
        )
    return [known[name] for name in names] if names else list(known.values())
