"""Which precision a run uses when the user doesn't say, and what 16-mixed becomes on a CPU.

The choice depends on the hardware and the network's width alone, so that every rank and every resume agree.
"""

import torch

# Autocast's conversions cost narrower networks what the faster matrix products save: on a CPU with bf16 instructions a
# 384-wide network gained 1.7×, a 128-wide one nothing (benchmarks/training.py measures both on your machine).
MIN_WIDTH_FOR_CPU_BF16 = 256


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); otherwise bf16 is many times slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def uses_gpu(accelerator: str) -> bool:
    """Whether a run with this `trainer.accelerator` lands on a CUDA GPU."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def choose_precision(requested: str | None, on_gpu: bool, d_model: int) -> tuple[str, str | None]:
    """The Lightning precision to run with, and a line for the user if it is not the one requested.

    If `requested` is None, the hardware decides: the GPU if `on_gpu`, else the CPU, where the width `d_model` matters.
    """
    if on_gpu:
        if requested is not None:
            return requested, None
        # By default the answer is yes even on a T4, where bf16 is emulated and slow.
        return ("bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"), None
    if requested is None:
        return ("bf16-mixed" if cpu_has_bf16() and d_model >= MIN_WIDTH_FOR_CPU_BF16 else "32-true"), None
    if str(requested) in ("16-mixed", "16"):
        slow = "" if cpu_has_bf16() else "; this CPU has no bf16 instructions, so --trainer.precision 32-true is faster"
        return "bf16-mixed", f"A CPU has no fp16 training: {requested} runs as bf16-mixed{slow}."
    return requested, None
