"""Reads the header block of a message, whatever stands in it. Pure, and never fails.

nats-py's own parser raises on a block that is too short, inside its read loop, which then ends for
good; and of headers that repeat, or whose names are not ASCII, it keeps only some.
"""

__all__ = ["Headers", "parse"]

_VERSION = "NATS/1.0"


class Headers(dict[str, str]):
    """Header names and values; of a name that repeats, the first value, as the broker reads it."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.raw = raw
        """The block as it came."""

    @property
    def complete(self) -> bool:
        """Whether the names and values tell all that the block says."""
        lines = [f"{name}: {value}" for name, value in self.items()]
        return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode() == self.raw


def parse(raw: bytes) -> Headers:
    """The headers of a block. A status line becomes ``Status`` and ``Description``."""
    found = Headers(raw)
    first, *lines = raw.decode("utf-8", "backslashreplace").split("\r\n")
    if first.startswith(_VERSION):
        status, _, description = first[len(_VERSION) :].strip().partition(" ")
        if status.isdecimal():
            found["Status"] = status
            if description:
                found["Description"] = description.strip()
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.strip()
        if colon and key and key not in found:
            found[key] = value.strip()
    return found
