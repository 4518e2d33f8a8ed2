"""How bytes of artifacts get from one host to another."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interlock.artifacts.transports.base import Carrier
    from interlock.artifacts.transports.ssh_options import SshOptions
    from interlock.bus import Bus
    from interlock_schemas.artifacts import Transport

__all__ = ["carriers"]


def carriers(bus: "Bus | None", options: "SshOptions | None" = None) -> "dict[Transport, Carrier]":
    """Every transport there is, by name. Close each when done.

    Those that need what is not installed here say so when they are asked whether they are usable.
    Without a `bus` those that lead through the broker are left out.
    """
    # Whoever needs only one of them, or only their types, does not load all.
    from interlock.artifacts.transports.rsync import RsyncCarrier
    from interlock.artifacts.transports.sftp import SftpCarrier
    from interlock.artifacts.transports.ssh_exec import ExecCarrier
    from interlock.artifacts.transports.ssh_options import SshOptions

    options = options or SshOptions()
    by_command = ExecCarrier(options)
    found: list[Carrier] = [
        by_command,
        RsyncCarrier(options, by_command.ssh),
        SftpCarrier(options),
    ]
    if bus is not None:
        from interlock.artifacts.transports.relay import RelayCarrier

        found.append(RelayCarrier(bus))
    return {each.name: each for each in found}
