"""Time contenders in one process, in turns, so that a machine that slows down does so for all."""

import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

Seconds = dict[str, list[float]]  # by contender, one for each round


def take_turns(contenders: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> Seconds:
    """Time every contender once per round, each round starting with another; an extra round before them warms up."""
    names, seconds = list(contenders), {name: [] for name in contenders}
    for number in tqdm(range(rounds + 1), desc="rounds", delay=2, leave=False):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            contenders[name]()
            if device == "cuda":
                torch.cuda.synchronize()
            if number > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def print_table(seconds: Seconds, work: float, unit: str, reference: str, more: dict[str, str] | None = None) -> None:
    """Print a line for each contender: its median time, `work` per second at that, and its speed relative to the
    reference: the median of the rounds' ratios and, in brackets, their quartiles.

    Args:
        seconds: From `take_turns`.
        work: What one call does, in `unit`.
        unit: Of the work, in the plural.
        reference: The contender that the others are compared with.
        more: What else to say of each.
    """
    width = max(map(len, seconds))
    print(f"{'':<{width}}  {'ms (median)':>12}  {unit + '/s':>14}  speed over {reference}")
    for name, times in seconds.items():
        ratios = [theirs / ours for ours, theirs in zip(times, seconds[reference], strict=True)]
        median = statistics.median(times)
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        versus = f"{middle:.2f}× ({low:.2f} to {high:.2f})" if name != reference else "1"
        rate, comment = work / median, (more or {}).get(name, "")
        print(f"{name:<{width}}  {median * 1e3:>12.4g}  {rate:>14,.4g}  {versus:<24} {comment}".rstrip())


def machine(device: str) -> str:
    """The device's name, and PyTorch's version."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    models = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    return f"{models[0] if models else 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _cpu_info() -> list[str]:
    try:
        with open("/proc/cpuinfo") as file:
            return file.readlines()
    except OSError:
        return []
