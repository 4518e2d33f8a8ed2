"""Measures the host: processor, memory, disks, addresses. Calls may block; see `sampler`."""

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import psutil  # type: ignore[import-untyped]  # it brings no types

from interlock_node_agent.beat import Machine, at_least, percent, text
from interlock_schemas.nodes import Disk

__all__ = ["addresses", "disk", "host_meter"]

T = TypeVar("T")

_FIRST_S: Final = 0.2


def host_meter() -> Callable[[], Machine]:
    """What measures processor and memory. Its first call takes a moment."""
    primed = False

    def measure() -> Machine:
        nonlocal primed
        # Since the call before; the first one has none before it, and would say zero.
        since = None if primed else _FIRST_S
        primed = True
        cpu: float | None = _or_none(lambda: psutil.cpu_percent(interval=since))
        cores = _or_none(psutil.cpu_count)
        load = _or_none(lambda: os.getloadavg()[0])
        memory = _or_none(psutil.virtual_memory)
        return Machine(
            cores=cores,
            cpu_percent=percent(cpu),
            load_per_core=at_least(load / cores) if cores and load is not None else None,
            memory_used_percent=percent(memory.percent) if memory is not None else None,
            memory_available_bytes=memory.available if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
        )

    return measure


def _or_none(measure: Callable[[], T]) -> T | None:
    """One measurement; None where this system has none of it."""
    try:
        return measure()
    except (OSError, psutil.Error, NotImplementedError, ValueError):
        return None


def disk(path: Path) -> Disk:
    """The file system of a folder. Raises OSError where it cannot be asked."""
    found = os.statvfs(path)
    # As df counts: what is kept back for root counts neither as used nor as free.
    used = found.f_blocks - found.f_bfree
    usable = used + found.f_bavail
    inodes_used = found.f_files - found.f_ffree
    return Disk(
        path=text(str(path), 500),
        used_percent=percent(100 * used / usable) if usable > 0 else None,
        free_bytes=found.f_bavail * found.f_frsize,
        total_bytes=found.f_blocks * found.f_frsize,
        inodes_used_percent=percent(100 * inodes_used / found.f_files) if found.f_files else None,
        read_only=bool(found.f_flag & os.ST_RDONLY),
    )


def addresses() -> tuple[str, ...]:
    """The host's own addresses that others could use, IPv4 first."""
    found = set()
    for entries in psutil.net_if_addrs().values():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            address = ipaddress.ip_address(entry.address.partition("%")[0])
            if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                found.add(address)
    return tuple(str(each) for each in sorted(found, key=lambda each: (each.version, int(each))))
