"""Tables on standard output, for people: whole words however wide, since what is cut cannot be
typed again."""

import sys
from collections.abc import Sequence

from interlock.cli.base import plain

__all__ = ["write_table"]


def write_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write rows below their headings; nothing where there are none."""
    if not rows:
        return
    shown = [[plain(cell).replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    for row in shown:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
