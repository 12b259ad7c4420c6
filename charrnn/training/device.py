"""The machine: device, precision, threads, seeds, memory. The one place where torch's global switches are set."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterator

import torch

from charrnn.errors import UsageError
from charrnn.launch import Launch

WORKING = {(kind, device) for kind in ("fp32", "bf16") for device in ("cpu", "cuda")} | {("fp16", "cuda"), ("fp32", "mps")}
SINGLE = Launch()
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def prepare(device: str, threads: int, here: Launch = SINGLE) -> torch.device:
    """Set the process up before the first tensor and return the device; raises UsageError if it is not there.

    Ranks on one machine share its cores, and each has a GPU of its own.
    """
    # Denormal numbers slow oneDNN's LSTM twenty times; they mean nothing here.
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads or max(1, available_cores() // here.local_count))
    _keep_freed_memory()
    where = resolve(device)
    if where.type != "cuda" or here.count == 1:
        return where
    if here.local_rank >= torch.cuda.device_count():
        found = f"{here.local_count} ranks on this machine, but {torch.cuda.device_count()} GPUs."
        raise UsageError(found, f"Start it with --nproc-per-node {torch.cuda.device_count()}, or train with --device cpu.")
    torch.cuda.set_device(here.local_rank)
    return torch.device("cuda", here.local_rank)


@contextlib.contextmanager
def visiting(threads: int) -> Iterator[None]:
    """Inside, torch computes on a CPU as after `prepare`; for a process that is another's.

    The switch for denormal numbers is the thread's, and so NumPy's too, whose results must not depend on who was here.
    """
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed: else each step's large tensors are mapped anew and their pages faulted in one by one.

    Measured: a fifth to a third of a step of the larger shapes (docs/results.md). Elsewhere than on glibc, nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    if any(mallopt(M_MMAP_THRESHOLD, size) for size in (1 << 30, 1 << 25)):  # an older glibc takes 32 MB at most
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def resolve(device: str) -> torch.device:
    """auto is cuda if there is one, else cpu; mps only when asked for (its LSTM is slower, in some versions wrong)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not is_there(device):
        raise UsageError(f"--device {device}: there is none on this machine.", "Use --device cpu, or leave the option out.")
    return torch.device(device)


def is_there(device: str) -> bool:
    """Whether this machine has such a device."""
    looks: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    return device not in looks or looks[device]()


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto is bf16 where the device multiplies it faster, on an older GPU fp16, else fp32; fp16 is for GPUs alone."""
    if precision == "auto":
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
        return "bf16" if device.type == "cpu" and has_matrix_units() else "fp32"
    if (precision, device.type) not in WORKING:
        raise UsageError(f"--precision {precision} does not work on a {device.type} device.", "Use --precision fp32.")
    return precision


def has_matrix_units() -> bool:
    """Whether the CPU multiplies bf16 matrices in units of their own (Intel's AMX): an LSTM is then 2 to 3 times faster."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported and supported())


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run the forward pass in `precision`: fp32, or torch's autocast to bf16 or fp16."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision]):
        yield


def out_of_memory(error: Exception) -> bool:
    """Whether this is how torch, or Python, says that there is not memory enough."""
    said = str(error)
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "allocate memory" in said or "out of memory" in said or "CUBLAS_STATUS_ALLOC_FAILED" in said


def available_cores() -> int:
    """Cores this process may use (cgroups and affinity allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def memory_bytes(device: torch.device) -> int:
    """Peak memory: of the device where it counts it, else of the process; 0 where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
