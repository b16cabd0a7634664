"""Measure in a fresh process, where nothing that ran before has left memory in use or warm caches."""

import multiprocessing
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

MEGABYTE = 1e6
WATCH_SECONDS = 0.005


def measured(act: Callable[..., Any], *args: Any, device: str = "cpu") -> tuple[float, float]:
    """Run `act(*args, meter)` in a fresh process. It calls `meter.begin()` after preparations, and `meter.end()` before
    anything that should not count.

    `act` and its arguments must be picklable, so `act` is a function of a module.

    Returns:
        Seconds, and megabytes of memory at the peak beyond those in use when it began. On a GPU, its memory.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure, act, args, device).result()


def _measure(act: Callable[..., Any], args: tuple, device: str) -> tuple[float, float]:
    meter = Meter(device == "cuda")
    act(*args, meter)
    meter.end()
    return meter.seconds, meter.megabytes


class Meter:
    """Seconds, and the peak of memory: a GPU's own, or resident memory, sampled 200 times a second (Linux keeps a peak,
    but that includes the time before `begin`)."""

    def __init__(self, on_gpu: bool) -> None:
        self.seconds, self.megabytes, self._running = 0.0, 0.0, False
        self._on_gpu = on_gpu

    def begin(self) -> None:
        """Everything counts from here on."""
        if self._on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self._before = self._peak = self._in_use()
        self._running = True
        if not self._on_gpu:
            threading.Thread(target=self._watch, daemon=True).start()
        self._start = time.perf_counter()

    def end(self) -> None:
        """Nothing counts from here on; only the first call counts."""
        if self._running:
            if self._on_gpu:
                torch.cuda.synchronize()
            self.seconds, self._running = time.perf_counter() - self._start, False
            peak = torch.cuda.max_memory_allocated() if self._on_gpu else max(self._peak, self._in_use())
            self.megabytes = (peak - self._before) / MEGABYTE

    def _watch(self) -> None:
        while self._running:
            self._peak = max(self._peak, self._in_use())
            time.sleep(WATCH_SECONDS)

    def _in_use(self) -> int:
        if self._on_gpu:
            return torch.cuda.memory_allocated()
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
