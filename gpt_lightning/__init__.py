"""gpt_lightning: train a small hand-written GPT and look inside it. Importable; no command line, no TensorBoard."""

import os

# OpenMP's threads spin while they wait, which makes small networks 2–5× slower on a shared CPU, and without any
# spinning they pay for being woken at every operation. This spins for about as long as Python takes from one operation
# to the next (benchmarks/README.md). It has to be set before torch is imported; a value that the user set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
