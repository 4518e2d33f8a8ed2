"""How hosts are reached over SSH: what the operator set, and what a node's description says.

Nothing of the user's own configuration is used: no agent, no default key, no known_hosts but the
one that is named here. A host whose key is in neither the description nor that file is not talked
to. Pure; `interlock.artifacts.transports.openssh` and `.asyncssh_links` do what this says.
"""

import re
from pathlib import Path
from typing import Final

import msgspec

from interlock.artifacts.transports.base import Peer
from interlock_schemas.nodes import SshAccess

__all__ = ["SshOptions", "access_of", "ciphers", "known_name", "why_not"]

_SSH_PORT: Final = 22
#: Nobody's way is longer; it is a loop.
_LONGEST_WAY: Final = 8

_HOST: Final = re.compile(r"\A[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,199}\Z")
_USER: Final = re.compile(r"\A[A-Za-z0-9_][A-Za-z0-9_.@-]{0,199}\Z")
_KEY: Final = re.compile(r"\A[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?\Z")

#: With AES in hardware the first moves half as much again per second as the usual default.
_CIPHERS: Final = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes192-ctr",
    "aes256-ctr",
)


class SshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every host, unless its description says otherwise."""

    identity: Path | None = None
    """File of the private key, for hosts whose description names none."""
    known_hosts: Path | None = None
    """For hosts whose description has no key."""
    connect_s: float = 10.0
    """From the first packet to the end of the login, seconds."""
    silence_s: float = 30.0
    """A transfer to which no byte came for so long is given up, seconds."""
    keep_s: float = 300.0
    """A connection that nobody used for so long is closed, seconds."""
    binary: bool = True
    """Whether the OpenSSH client is used where there is one. False: asyncssh, always."""
    scratch: Path | None = None
    """Folder in which rsync puts what it brings, until it was passed on. None: the system's."""


def access_of(peer: Peer) -> SshAccess | None:
    """How the peer is reached over SSH, if it is."""
    return peer.record.ssh if peer.record is not None else None


def why_not(peer: Peer, options: SshOptions) -> str | None:
    """Why SSH does not lead to this peer, as far as is known without asking; None: it may."""
    node = peer.source.node
    access = access_of(peer)
    if access is None:
        return f"nobody described how {node} is reached over SSH"
    if not peer.source.root:
        return f"nobody said where the store of {node} is"
    if not peer.source.root.startswith("/") or "\0" in peer.source.root:
        return f"the store of {node} is not an absolute path: {peer.source.root!r}"
    if len(access.jump) >= _LONGEST_WAY:
        return f"the way to {node} has {len(access.jump)} jump hosts"
    for host in (*access.jump, access):
        if host is not access and host.jump:
            return f"jump host {host.host} has jump hosts itself: describe the whole way in a row"
        if not _HOST.match(host.host) or not _USER.match(host.user):
            return f"{host.user!r} at {host.host!r} is no address of a host"
        if host.host_key is not None and not _KEY.match(host.host_key):
            return f"host_key of {host.host} is not a public key as in `ssh-ed25519 AAAA…`"
        if host.host_key is None and options.known_hosts is None:
            return f"no key of {host.host} is known: describe its host_key, or name a known_hosts"
        if host.identity is None and options.identity is None:
            return f"no key to show to {host.host}: describe its identity, or set one for all"
    return None


def ciphers() -> tuple[str, ...]:
    """The ciphers to offer, the fastest first."""
    return _CIPHERS


def known_name(access: SshAccess) -> str:
    """As a known_hosts file calls the host."""
    return access.host if access.port == _SSH_PORT else f"[{access.host}]:{access.port}"
