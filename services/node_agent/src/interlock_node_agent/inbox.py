"""Seals what is put into the inbox of the store: ``inbox/<dataset>/<config>/<item>``.

For whoever cannot call the SDK: a file or folder that is moved there becomes an artifact. ``_`` as
the configuration says that there is none. What cannot be sealed is moved to ``inbox/.refused``,
with a note beside it.
"""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from interlock import logs
from interlock.artifacts import layout
from interlock.artifacts.errors import ArtifactError
from interlock.artifacts.sealing import seal
from interlock.artifacts.store import LocalStore
from interlock_node_agent.settling import Item, Seen, is_ignored, look
from interlock_schemas.artifacts import Artifact

__all__ = ["Inbox"]

_REFUSED: Final = ".refused"
_NO_CONFIG: Final = "_"
#: The disk has no room, or is not to be written now: that may pass.
_PASSING: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE))

log = logs.get_logger("interlock.agent.inbox")


class Inbox:
    """The inbox of one store. Everything here blocks: call it in a thread, one at a time."""

    def __init__(self, store: LocalStore, node: str, *, settle_s: float) -> None:
        self._store = store
        self._node = node
        self._settle_s = settle_s
        self._folder = store.root / layout.INBOX
        self._seen: dict[Item, Seen] = {}

    def take(self, now: float, cancelled: threading.Event) -> list[Artifact]:
        """Seal what has not changed for long enough. `now`: of a rising clock, seconds."""
        self._seen, settled = look(self._seen, self._items(), now, settle_s=self._settle_s)
        sealed = []
        for item in settled:
            if cancelled.is_set():
                break
            artifact = self._seal(item, cancelled)
            if artifact is not None:
                sealed.append(artifact)
        return sealed

    def _seal(self, item: Item, cancelled: threading.Event) -> Artifact | None:
        path = self._path(item)
        self._seen.pop(item, None)
        if not item.dataset:
            self._refuse(item, "put it into inbox/<dataset>/<config>/, config being _ for none")
            return None
        try:
            artifact = seal(
                self._store,
                path,
                dataset=item.dataset,
                config="" if item.config == _NO_CONFIG else item.config,
                origin=self._node,
                move=True,
                cancelled=cancelled,
            )
        except ArtifactError as error:
            if not cancelled.is_set():
                self._refuse(item, str(error))
            return None
        except FileNotFoundError:
            # Whoever put it there took it away again.
            return None
        except OSError as error:
            if error.errno in _PASSING:
                log.warning("not sealed yet", path=str(path), why=str(error))
            else:
                self._refuse(item, str(error))
            return None
        log.info("sealed from the inbox", artifact=artifact.id, item=item.name)
        return artifact

    def _path(self, item: Item) -> Path:
        return self._folder.joinpath(*filter(None, (item.dataset, item.config, item.name)))

    def _refuse(self, item: Item, why: str) -> None:
        path = self._path(item)
        first = self._folder.joinpath(_REFUSED, *path.relative_to(self._folder).parts)
        try:
            first.parent.mkdir(parents=True, exist_ok=True)
            target, number = first, 0
            while os.path.lexists(target):
                number += 1
                target = first.with_name(f"{first.name}.{number}")
            path.rename(target)
            target.with_name(f"{target.name}.why.txt"[-255:]).write_text(f"{why}\n")
        except OSError as error:
            log.error("refused, and it stays where it is", path=str(path), why=str(error))
            return
        log.warning("refused", path=str(path), now=str(target), why=why)

    def _items(self) -> Iterator[tuple[Item, tuple[int, ...]]]:
        for dataset in _entries(self._folder):
            if not dataset.is_dir(follow_symlinks=False):
                yield from _found(Item("", "", dataset.name), dataset)
                continue
            for config in _entries(Path(dataset.path)):
                if not config.is_dir(follow_symlinks=False):
                    item = Item("", "", f"{dataset.name}/{config.name}")
                    yield from _found(item, config)
                    continue
                for entry in _entries(Path(config.path)):
                    yield from _found(Item(dataset.name, config.name, entry.name), entry)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as found:
            return sorted(
                (each for each in found if not is_ignored(each.name)), key=lambda each: each.name
            )
    except (FileNotFoundError, NotADirectoryError):
        return []


def _found(item: Item, entry: "os.DirEntry[str]") -> Iterator[tuple[Item, tuple[int, ...]]]:
    try:
        yield item, _signature(entry.path)
    except FileNotFoundError:
        return


def _signature(path: str) -> tuple[int, ...]:
    """What changes when anything below does: counts, sizes and the newest times."""
    told = os.lstat(path)
    count, size, newest = 1, told.st_size, max(told.st_mtime_ns, told.st_ctime_ns)
    if stat.S_ISDIR(told.st_mode):
        for folder, _, names in os.walk(path):
            for each in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118
                seen = os.lstat(each)
                count, size = count + 1, size + seen.st_size
                newest = max(newest, seen.st_mtime_ns, seen.st_ctime_ns)
    return count, size, newest, told.st_ino
