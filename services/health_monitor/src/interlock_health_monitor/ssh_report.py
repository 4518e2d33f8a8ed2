"""What a host tells about itself over SSH: the script that asks, and what is read out of it. Pure.

One session gathers everything: a POSIX shell script, fed on standard input, that needs neither
Python nor privileges and works from whatever login shell the user has. It answers in marked
sections, so that a banner before it and a cut behind it do no harm. What is missing or makes no
sense is absent, never zero.
"""

import math
import re
import shlex
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from interlock_schemas.nodes import Beat, Disk, Gpu, Name

__all__ = ["COMMAND", "LARGEST_REPORT_BYTES", "HostReport", "parse", "script"]

#: What is run; the script goes to its standard input. There it is on nobody's list of processes,
#: where the search for the agent would find it.
COMMAND: Final = "exec sh -s"
#: A report with more is cut.
LARGEST_REPORT_BYTES: Final = 262_144
#: So long may one measurement take on the host, seconds, where it has `timeout`.
STEP_S: Final = 5
#: More folders or GPUs than any host has.
_MOST: Final = 1_024

T = TypeVar("T")

_GPU_FIELDS: Final = (
    "index,name,uuid,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw,"
    "ecc.errors.uncorrected.volatile.total"
)

# Each slow measurement runs beside the others and prints its section whole, so that one that hangs
# keeps nothing back but itself. The brackets keep the search from finding its own command line.
_SCRIPT: Final = r"""
PATH="$PATH:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin:/usr/lib/wsl/lib"
LC_ALL=C
export PATH LC_ALL
say() { printf '\n%s %s\n%s\n' "$m" "$1" "$2"; }
if command -v timeout >/dev/null 2>&1; then
    within() { timeout -k 1 @STEP@ "$@"; }
else
    within() { "$@"; }
fi
disk() {
    space=$(within df -P -k -- "$2" 2>/dev/null); status=$?
    inodes=; options=
    if [ "$status" -eq 0 ]; then
        inodes=$(within df -P -i -- "$2" 2>/dev/null | tail -n 1)
        point=$(printf '%s\n' "$space" | tail -n 1 | awk '{print $6}')
        options=$(awk -v p="$point" '$2 == p {o = $4} END {print o}' /proc/mounts 2>/dev/null)
    fi
    say "disk $1" "status $status
space $(printf '%s\n' "$space" | tail -n 1)
inodes $inodes
options $options"
}
gpus() {
    if command -v nvidia-smi >/dev/null 2>&1; then
        set -- --format=csv,noheader,nounits
        told=$(within nvidia-smi --query-gpu=@FIELDS@,remapped_rows.failure "$@" 2>&1); status=$?
        if [ "$status" -ne 0 ] && [ "$status" -ne 124 ] && [ "$status" -ne 137 ]; then
            told=$(within nvidia-smi --query-gpu=@FIELDS@ "$@" 2>&1); status=$?
        fi
        say gpus "status $status
$told"
    elif [ -e /dev/nvidiactl ] || [ -e /dev/kfd ] || [ -e /dev/dxg ]; then
        say gpus "status unknown"
    else
        say gpus "status none"
    fi
}
agent() {
    if command -v pgrep >/dev/null 2>&1; then
        pgrep -f '[i]nterlock[_-]node[_-]agent' >/dev/null 2>&1
        say agent "status $?"
    elif [ -r /proc/self/cmdline ]; then
        if grep -l -a -s -e '[i]nterlock[_-]node[_-]agent' /proc/[0-9]*/cmdline >/dev/null 2>&1
        then say agent "status 0"; else say agent "status 1"; fi
    fi
}
main() {
    say begin "1"
    say clock "$(date +%s.%N 2>/dev/null)"
    say host "$(hostname 2>/dev/null || uname -n)"
    say boot "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null ||
        sysctl -n kern.bootsessionuuid 2>/dev/null)"
    say uptime "$(cat /proc/uptime 2>/dev/null)"
    say load "$(cat /proc/loadavg 2>/dev/null || sysctl -n vm.loadavg 2>/dev/null)"
    say cores "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)"
    say memory "$(grep -E '^Mem(Total|Available):' /proc/meminfo 2>/dev/null)"
    agent
    gpus &
@DISKS@
    wait
    say end "1"
}
main </dev/null
exit 0
"""


class HostReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host told. None: it did not say, or what it said makes no sense."""

    hostname: str | None = None
    boot_id: str | None = None
    """Another one than before: it was booted in between."""
    uptime_s: float | None = None
    """Of the host."""
    clock_s: float | None = None
    """Its clock, seconds since the epoch."""
    load: float | None = None
    """The one-minute load average."""
    cores: int | None = None
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None
    disks: tuple[Disk, ...] = ()
    gpus: tuple[Gpu, ...] | None = None
    """Every one. None: not known; empty: there is none."""
    gpu_fault: str | None = None
    agent_running: bool | None = None
    """Whether a process of the agent is there."""
    complete: bool = False
    """Whether the report has its end."""
    missing: tuple[str, ...] = ()
    """Sections that did not come, or made no sense."""

    @property
    def empty(self) -> bool:
        """Whether nothing of the report came at all."""
        return not self.complete and "begin" in self.missing

    def beat(self, node: Name, *, seq: int, interval_s: float) -> Beat:
        """The same as an agent would have told it."""
        total, available = self.memory_total_bytes, self.memory_available_bytes
        used = None
        if total and available is not None and available <= total:
            used = 100.0 * (total - available) / total
        load = None
        if self.load is not None and self.cores:
            load = self.load / self.cores
        return Beat(
            node=node,
            instance="ssh",
            seq=seq,
            sent_at=self.clock_s,
            interval_s=interval_s,
            cores=self.cores,
            load_per_core=load,
            memory_used_percent=used,
            memory_available_bytes=available,
            memory_total_bytes=total,
            disks=self.disks,
            gpus=self.gpus,
            gpu_fault=self.gpu_fault,
        )


def script(paths: Iterable[str], *, mark: str) -> bytes:
    """The script that reports on a host and the disks of those folders.

    `mark` opens each line that begins a section: letters and digits that nothing else there prints.

    Raises ValueError for a mark that would have to be quoted.
    """
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", mark):
        raise ValueError(f"a mark is up to 64 letters and digits, not {mark!r}")
    disks = "\n".join(
        f"    disk {number} {shlex.quote(path)} &"
        for number, path in enumerate(paths)
        if "\0" not in path
    )
    text = (
        _SCRIPT.replace("@STEP@", str(STEP_S))
        .replace("@FIELDS@", _GPU_FIELDS)
        .replace("@DISKS@", disks)
    )
    return f"m={mark}\n{text}".encode(errors="surrogateescape")


def parse(told: bytes, *, mark: str, paths: Iterable[str] = ()) -> HostReport:
    """Read a report. Never raises: what makes no sense is absent."""
    sections = _sections(told.decode("utf-8", errors="replace"), mark)
    found = {
        "hostname": _text(sections.get("host")),
        "boot_id": _text(sections.get("boot")),
        "uptime_s": _first(sections.get("uptime"), 1e10),
        "clock_s": _clock(sections.get("clock")),
        "load": _first(sections.get("load"), 1e9),
        "cores": _cores(sections.get("cores")),
        "memory_total_bytes": _memory(sections.get("memory"), "MemTotal"),
        "memory_available_bytes": _memory(sections.get("memory"), "MemAvailable"),
        "agent_running": _agent(sections.get("agent")),
    }
    gpus, gpu_fault = _gpus(sections.get("gpus"))
    disks = tuple(_disk(path, sections.get(f"disk {number}")) for number, path in enumerate(paths))
    missing = [name for name in ("begin", "gpus", "end") if name not in sections]
    missing += [name for name, value in found.items() if value is None]
    missing += [f"disk {disk.path}" for disk in disks if disk.used_percent is None]
    return HostReport(
        hostname=_narrow(found["hostname"], str),
        boot_id=_narrow(found["boot_id"], str),
        uptime_s=_narrow(found["uptime_s"], float),
        clock_s=_narrow(found["clock_s"], float),
        load=_narrow(found["load"], float),
        cores=_narrow(found["cores"], int),
        memory_total_bytes=_narrow(found["memory_total_bytes"], int),
        memory_available_bytes=_narrow(found["memory_available_bytes"], int),
        agent_running=_narrow(found["agent_running"], bool),
        disks=disks,
        gpus=gpus,
        gpu_fault=gpu_fault,
        complete="begin" in sections and "end" in sections,
        missing=tuple(missing),
    )


def _sections(text: str, mark: str) -> dict[str, str]:
    """Each section's text by its name. One that is begun twice is not to be trusted."""
    sections: dict[str, str] = {}
    twice: set[str] = set()
    head = f"{mark} "
    name, lines = "", list[str]()

    def finish() -> None:
        if not name:
            return
        if name in sections:
            twice.add(name)
        sections[name] = "\n".join(lines).strip("\n")

    # Not splitlines: a form feed in a GPU's name begins no line.
    for line in text.split("\n"):
        if line.startswith(head):
            finish()
            name, lines = line[len(head) :].strip(), []
        else:
            lines.append(line.rstrip("\r"))
    # What is cut off in the middle cannot be told from what is whole: only the end is at the end.
    if name == "end":
        finish()
    return {name: text for name, text in sections.items() if name not in twice}


def _narrow(value: object, kind: type[T]) -> T | None:
    return value if isinstance(value, kind) else None


def _text(section: str | None) -> str | None:
    text = (section or "").strip()
    return text if 0 < len(text) <= 200 and text.isprintable() else None


def _number(text: str, highest: float) -> float | None:
    """A number from 0 to the highest, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and 0 <= number <= highest else None


def _whole(text: str, highest: int = 2**62) -> int | None:
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        return None
    number = int(text)
    return number if number <= highest else None


def _first(section: str | None, highest: float) -> float | None:
    words = (section or "").strip("{} \n").split()
    return _number(words[0], highest) if words else None


def _clock(section: str | None) -> float | None:
    # A date that knows no nanoseconds prints the letter.
    match = re.fullmatch(r"([0-9]{1,12})(\.[0-9]{1,9})?(\.?N)?", (section or "").strip())
    return float(match[1] + (match[2] or "")) if match else None


def _cores(section: str | None) -> int | None:
    number = _whole((section or "").strip(), 100_000)
    return number or None


def _memory(section: str | None, name: str) -> int | None:
    for line in (section or "").split("\n"):
        words = line.split()
        if len(words) == 3 and words[0] == f"{name}:" and words[2] == "kB":
            kilobytes = _whole(words[1], 2**52)
            return None if kilobytes is None else kilobytes * 1024
    return None


def _agent(section: str | None) -> bool | None:
    return {"status 0": True, "status 1": False}.get((section or "").strip())


def _fields(section: str) -> dict[str, str]:
    return {
        key: value.strip()
        for key, _, value in (line.partition(" ") for line in section.split("\n"))
    }


def _disk(path: str, section: str | None) -> Disk:
    named = path if len(path) <= 500 else path[:500]
    if section is None:
        return Disk(path=named, fault="it did not say")
    fields = _fields(section)
    status = fields.get("status", "")
    if status in ("124", "137"):
        return Disk(path=named, fault=f"it did not answer within {STEP_S} s")
    if status != "0":
        return Disk(path=named, fault="it cannot be measured: is the folder there?")
    space = _columns(fields.get("space", ""))
    if space is None or space[1] + space[2] == 0:
        return Disk(path=named, fault="it told nothing that makes sense")
    total, used, free = (each * 1024 for each in space)
    inodes = _columns(fields.get("inodes", ""))
    options = fields.get("options", "").split(",")
    return Disk(
        path=named,
        used_percent=100.0 * used / (used + free),
        free_bytes=free,
        total_bytes=total,
        inodes_used_percent=None
        if inodes is None or not inodes[1] + inodes[2]
        else 100.0 * inodes[1] / (inodes[1] + inodes[2]),
        read_only=None if options == [""] else "ro" in options,
    )


#: The columns of ``df -P`` before the mount point; either end may have spaces of its own.
_COLUMNS: Final = re.compile(r"\s([0-9]{1,16})\s+([0-9]{1,16})\s+([0-9]{1,16})\s+[0-9]{1,3}%\s+/")


def _columns(line: str) -> tuple[int, int, int] | None:
    match = _COLUMNS.search(f" {line}")
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def _gpus(section: str | None) -> tuple[tuple[Gpu, ...] | None, str | None]:
    if section is None:
        return None, None
    head, _, told = section.partition("\n")
    status = head.removeprefix("status ").strip()
    if status == "none":
        return (), None
    if status == "unknown":
        return None, "there are GPUs, and no nvidia-smi to ask"
    if status in ("124", "137"):
        return None, f"nvidia-smi did not answer within {STEP_S} s"
    gpus = tuple(
        gpu for gpu in (_gpu(line) for line in told.split("\n")[:_MOST] if line) if gpu is not None
    )
    if status == "0":
        return gpus, None
    # It may have told of some before it came upon the one that it cannot read.
    return gpus or None, f"nvidia-smi failed with status {status[:20]}"


_FAULTS: Final = ("[gpu requires reset]", "[unknown error]", "[gpu is lost]", "[insufficient")


def _gpu(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) < 9:
        return None
    index = _whole(cells[0], 4096)
    if index is None:
        return None
    fault = next((cell for cell in cells if cell.lower().startswith(_FAULTS)), None)
    temperature = _number(cells[6], 300)
    used, total = _mebibytes(cells[4]), _mebibytes(cells[5])
    return Gpu(
        index=index,
        name=_told(cells[1]),
        uuid=_told(cells[2]),
        utilization_percent=_number(cells[3], 100),
        memory_used_bytes=used,
        memory_total_bytes=total,
        temperature_c=temperature,
        power_w=_number(cells[7], 100_000),
        ecc_uncorrected=_whole(cells[8]),
        rows_failed={"yes": True, "1": True, "no": False, "0": False}.get(cells[9].lower())
        if len(cells) > 9
        else None,
        fault=None if fault is None else fault.strip("[]")[:500],
    )


def _told(cell: str) -> str | None:
    return None if cell.startswith("[") else _text(cell)


def _mebibytes(cell: str) -> int | None:
    number = _whole(cell, 2**40)
    return None if number is None else number * 1024 * 1024
