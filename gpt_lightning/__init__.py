"""gpt_lightning: train a small hand-written GPT and look inside it. Importable; no command line, no TensorBoard."""

import os

# OpenMP's threads spin while they wait, which makes small networks 2–5× slower on a shared CPU. This bounds the
# spinning, and has to be set before torch is imported; a value that the user set stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
