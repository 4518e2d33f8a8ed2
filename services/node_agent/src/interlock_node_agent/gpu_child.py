"""Measures GPUs through NVIDIA's library, in a process that may hang or crash without harm.

Reads a line, answers with lines of JSON: ``{"asking": index}`` before each GPU, and at the end
``{"gpus": […]}``, ``{"none": why}`` or ``{"failed": why}``. `interlock_node_agent.gpus` starts it
and ends it.
"""

import os
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pynvml  # type: ignore[import-untyped]  # it brings no types

from interlock_node_agent.beat import at_least, percent, text
from interlock_schemas.nodes import Gpu

__all__ = ["main"]

#: What the library says about something that this board, driver or user does not have: no fault.
_NOT_HERE: Final = frozenset(
    (
        pynvml.NVML_ERROR_NOT_SUPPORTED,
        pynvml.NVML_ERROR_NO_PERMISSION,
        pynvml.NVML_ERROR_NOT_FOUND,
        pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        pynvml.NVML_ERROR_NO_DATA,
        pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED,
        pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        pynvml.NVML_ERROR_DEPRECATED,
    )
)
_NO_GPUS: Final = frozenset(
    (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
)


def _measure(index: int) -> Gpu:
    """One GPU. Whatever goes wrong with it is its own fault."""
    try:
        board = pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError as error:
        return Gpu(index=index, fault=text(f"it cannot be reached: {error}", 500))
    faults: list[str] = []

    def ask(what: str, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except pynvml.NVMLError as error:
            if error.value not in _NOT_HERE:
                faults.append(f"{what}: {error}")
        except (UnicodeDecodeError, ValueError) as error:
            faults.append(f"{what}: {error}")
        return None

    name = ask("name", lambda: pynvml.nvmlDeviceGetName(board))
    uuid = ask("uuid", lambda: pynvml.nvmlDeviceGetUUID(board))
    rates = ask("utilization", lambda: pynvml.nvmlDeviceGetUtilizationRates(board))
    memory = ask("memory", lambda: pynvml.nvmlDeviceGetMemoryInfo(board))
    heat = ask(
        "temperature",
        lambda: pynvml.nvmlDeviceGetTemperature(board, pynvml.NVML_TEMPERATURE_GPU),
    )
    power = ask("power", lambda: pynvml.nvmlDeviceGetPowerUsage(board))
    uncorrected = ask(
        "memory errors",
        lambda: pynvml.nvmlDeviceGetTotalEccErrors(
            board, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
        ),
    )
    rows = ask("remapped rows", lambda: pynvml.nvmlDeviceGetRemappedRows(board))
    processes = ask("processes", lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(board))
    return Gpu(
        index=index,
        name=text(name) if name else None,
        uuid=text(uuid) if uuid else None,
        utilization_percent=percent(rates.gpu) if rates is not None else None,
        memory_used_bytes=_count(memory.used) if memory is not None else None,
        memory_total_bytes=_count(memory.total) if memory is not None else None,
        temperature_c=float(heat) if heat is not None and heat <= 300 else None,
        power_w=_watts(power),
        ecc_uncorrected=_count(uncorrected),
        rows_failed=bool(rows[3]) if rows is not None else None,
        processes=len(processes) if processes is not None else None,
        fault=text("; ".join(faults), 500) or None,
    )


def _watts(milliwatts: int | None) -> float | None:
    watts = at_least(milliwatts / 1_000) if milliwatts is not None else None
    return watts if watts is not None and watts <= 100_000 else None


def _count(value: int | None) -> int | None:
    # The library spells "not known" as the largest number there is.
    return value if value is not None and 0 <= value < 2**62 else None


def _answer(say: Callable[[Any], None]) -> None:
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        say({"none" if error.value in _NO_GPUS else "failed": str(error)})
        return
    try:
        found = []
        for index in range(count):
            say({"asking": index})
            found.append(_measure(index))
        say({"gpus": found})
    finally:
        pynvml.nvmlShutdown()


def main() -> None:
    """Answer line by line until there are no more."""
    # The library may print: what it prints must not be taken for an answer.
    answers = os.dup(1)
    os.dup2(2, 1)

    def say(what: Any) -> None:
        os.write(answers, msgspec.json.encode(what) + b"\n")

    for _ in sys.stdin.buffer:
        _answer(say)


if __name__ == "__main__":
    main()
