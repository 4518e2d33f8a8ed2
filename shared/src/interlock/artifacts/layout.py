"""Where things are in a store, on this host and on any other. Pure.

::

    artifacts/<two digits>/<id>/manifest.json   the canonical manifest: its digest is the id
                               /about.json      where it came from, what it is worth
                               /files/<path>    the content
    staging/<id>/                               being received; goes on where it was left
    quarantine/<id>.<time>/                     damaged: kept for people, used by nobody
    trash/                                      about to be deleted
    fence/                                      the highest fencing tokens seen
    inbox/<dataset>/<config>/<item>             what is dropped here is sealed
    logs/                                       how far growing logs have been sealed
"""

from typing import Final

__all__ = [
    "ABOUT",
    "ARTIFACTS",
    "FENCE",
    "FILES",
    "INBOX",
    "LOGS",
    "MANIFEST",
    "QUARANTINE",
    "STAGING",
    "TRASH",
    "artifact_dir",
    "file_path",
    "manifest_path",
]

ARTIFACTS: Final = "artifacts"
STAGING: Final = "staging"
QUARANTINE: Final = "quarantine"
TRASH: Final = "trash"
FENCE: Final = "fence"
INBOX: Final = "inbox"
LOGS: Final = "logs"
MANIFEST: Final = "manifest.json"
ABOUT: Final = "about.json"
FILES: Final = "files"


def artifact_dir(id: str) -> str:
    """The folder of an artifact, relative to the store."""
    return f"{ARTIFACTS}/{id[:2]}/{id}"


def manifest_path(id: str) -> str:
    """Its manifest, relative to the store."""
    return f"{artifact_dir(id)}/{MANIFEST}"


def file_path(id: str, path: str) -> str:
    """A file of it, relative to the store."""
    return f"{artifact_dir(id)}/{FILES}/{path}"
