"""Lightning callbacks: when to look and where to write. What they show is computed in gpt_lightning."""

from callbacks.attention_heatmaps import AttentionHeatmaps
from callbacks.depth_scan import DepthScan
from callbacks.hparams import HyperParameters
from callbacks.progress import StepProgressBar
from callbacks.resuming.audit_trail import AuditTrail
from callbacks.resuming.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.resuming.exact_resume import ExactResume
from callbacks.resuming.graceful_stop import GracefulStop, Stopped
from callbacks.resuming.lost_process import LostProcess
from callbacks.resuming.time_limit import TimeLimit
from callbacks.save_config import SaveConfig
from callbacks.text_samples import TextSamples, sample
from callbacks.throughput import Throughput

__all__ = [
    "AttentionHeatmaps",
    "AuditTrail",
    "BestCheckpoint",
    "DepthScan",
    "ExactResume",
    "GracefulStop",
    "HyperParameters",
    "LastCheckpoint",
    "LostProcess",
    "SaveConfig",
    "StepProgressBar",
    "Stopped",
    "TextSamples",
    "Throughput",
    "TimeLimit",
    "sample",
]
