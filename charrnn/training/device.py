"""The machine: device, precision, threads, seeds, memory. The one place where torch's global switches are set."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import torch

from charrnn.errors import UsageError


def prepare(device: str, threads: int) -> torch.device:
    """Set the process up before the first tensor and return the device; raises UsageError if it is not there."""
    # Denormal numbers slow oneDNN's LSTM twenty times; they mean nothing here.
    torch.set_flush_denormal(True)
    torch.set_num_threads(threads or available_cores())
    return resolve(device)


def resolve(device: str) -> torch.device:
    """auto is cuda if there is one, else cpu; mps only when asked for (its LSTM is slower, in some versions wrong)."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[device]:
        raise UsageError(f"--device {device}: there is none on this machine.", "Use --device cpu, or leave the option out.")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> str:
    """auto is fp32, on a GPU bf16 where it has it, else fp16; only a GPU may be asked for less than fp32."""
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    if precision != "fp32" and device.type != "cuda":
        raise UsageError(f"--precision {precision} needs a CUDA device; this run is on {device.type}.", "Use --precision fp32.")
    return precision


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run the forward pass in `precision`: fp32, or torch's autocast to bf16 or fp16."""
    if precision == "fp32":
        yield
        return
    with torch.autocast(device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision]):
        yield


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
