"""Lightning callbacks: when to look and where to write. What they show is computed in gpt_lightning."""

from callbacks.attention_heatmaps import AttentionHeatmaps
from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.depth_scan import DepthScan
from callbacks.hparams import HyperParameters
from callbacks.progress import StepProgressBar
from callbacks.text_samples import TextSamples, sample
from callbacks.throughput import Throughput
from callbacks.time_limit import TimeLimit

__all__ = [
    "AttentionHeatmaps",
    "BestCheckpoint",
    "DepthScan",
    "HyperParameters",
    "LastCheckpoint",
    "StepProgressBar",
    "TextSamples",
    "Throughput",
    "TimeLimit",
    "sample",
]
