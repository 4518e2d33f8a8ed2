"""Which graphics processors the PCI bus shows, for when the vendor's library says nothing."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

__all__ = ["Hardware", "classify", "look"]

#: ``none``: there is none. ``nvidia``: there is one that we should be able to measure. ``other``:
#: there is one that we cannot. ``unknown``: the bus cannot be looked at.
Hardware = Literal["none", "nvidia", "other", "unknown"]

_DEVICES: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = 0x10DE
_AMD: Final = 0x1002
#: Display controllers and processing accelerators.
_CLASSES: Final = (0x03, 0x12)


def classify(devices: Iterable[tuple[int, int]]) -> Hardware:
    """What there is, from vendor and class of each device."""
    vendors = {vendor for vendor, kind in devices if kind >> 16 in _CLASSES}
    if _NVIDIA in vendors:
        return "nvidia"
    return "other" if _AMD in vendors else "none"


def look(folder: Path = _DEVICES) -> Hardware:
    """What the bus of this host shows."""
    devices = []
    try:
        for device in folder.iterdir():
            vendor = int((device / "vendor").read_text(), 16)
            devices.append((vendor, int((device / "class").read_text(), 16)))
    except (OSError, ValueError):
        return "unknown"
    return classify(devices)
