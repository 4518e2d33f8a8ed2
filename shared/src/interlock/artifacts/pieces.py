"""Parts of an artifact's content. Pure."""

import msgspec

__all__ = ["Piece"]


class Piece(msgspec.Struct, frozen=True):
    """Consecutive bytes of one file of an artifact."""

    id: str
    path: str
    offset: int
    length: int
    """Above 0: files of no bytes are made without asking."""
    whole: bool
    """Whether it is the whole file."""
