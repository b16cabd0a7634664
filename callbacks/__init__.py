"""Lightning callbacks: when to look and where to write. What they show is computed in gpt_lightning."""

from callbacks.attention_heatmaps import AttentionHeatmaps
from callbacks.audit_trail import AuditTrail
from callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from callbacks.depth_scan import DepthScan
from callbacks.exact_resume import ExactResume
from callbacks.graceful_stop import GracefulStop, Stopped
from callbacks.hparams import HyperParameters
from callbacks.lost_process import LostProcess
from callbacks.progress import StepProgressBar
from callbacks.save_config import SaveConfig
from callbacks.text_samples import TextSamples, sample
from callbacks.throughput import Throughput
from callbacks.time_limit import TimeLimit

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
