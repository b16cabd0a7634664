"""All that analyze.py measures, in one call: the scan, probes, the logit lens, similarity of layers, and ablation.

Knows nothing of files, pictures or reports.

Shapes: B sequences, T tokens, L layers, H heads.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from gpt_lightning.interpret.judge.alarms import ALARMS, Alarm
from gpt_lightning.interpret.judge.verdicts import change, with_evidence
from gpt_lightning.interpret.measure.ablation import Ablation, ablate, effect, interval
from gpt_lightning.interpret.measure.logit_lens import LogitLens, logit_lens
from gpt_lightning.interpret.measure.predictions import cross_entropies
from gpt_lightning.interpret.measure.probes import random_tokens, repeated_tokens
from gpt_lightning.interpret.measure.similarity import layer_similarity
from gpt_lightning.interpret.result import DepthScanResult, plain
from gpt_lightning.interpret.scan import depth_scan

STUDY_UNITS = {
    "ablation": "nats per token, change of the loss without it: mean, low and high of the 95 % interval",
    "attention_ablation": "nats per token, the same for all heads of the layer at once",
    "logit_lens_cross_entropy": "nats per token",
    "logit_lens_kl_to_final": "nats",
    "logit_lens_top1_agreement": "share (0 to 1)",
    "similarity": "linear CKA (0 to 1), the embedding first",
    "cross_entropy": "nats per token",
    "floor": "nats per token",
    "unigram_entropy": "nats per token",
}
FOREIGN = 0.5  # nats per token above the entropy of single tokens: even the tokens' frequencies are a surprise


@dataclass(frozen=True)
class Probe:
    """How the network does on one kind of text."""

    name: Literal["natural", "random", "repeated"]
    cross_entropy: float  # nats per token; of the repeat alone for repeated text
    # Nats per token to compare with. For random and repeated text the floor, which no model can beat; for natural text,
    # whose floor nobody knows, the entropy of its single tokens, the floor of models that see no context.
    reference: float
    first_position_mass_L: Tensor  # mean over heads; a sink that is still there on random text is about the position


@dataclass
class Study:
    """The results; everything on the CPU."""

    scan: DepthScanResult
    probes: list[Probe]
    lens: LogitLens
    similarity: Tensor  # (L+1, L+1), from `layer_similarity`
    ablation: Ablation | None
    foreign: bool = False  # whether the text is nothing like what the network was trained on

    @property
    def caution(self) -> str:
        """Why the results say little about the network, if they do."""
        if not self.foreign:
            return self.scan.caution
        text = self.probes[0]
        return (
            f"This text is foreign to the network: its loss of {text.cross_entropy:.2f} is far above the entropy of "
            f"single tokens, {text.reference:.2f}. What heads do here says little about what they do on text it knows. "
            f"{self.scan.caution}"
        ).strip()

    def to_json(self) -> dict:
        """The JSON of the scan, with the other results added."""
        content = self.scan.to_json()
        content["units"] |= STUDY_UNITS
        content["caution"] = self.caution
        content["cross_entropy"] = plain(self.probes[0].cross_entropy)
        content["probes"] = {
            probe.name: {
                "cross_entropy": plain(probe.cross_entropy),
                "unigram_entropy" if probe.name == "natural" else "floor": plain(probe.reference),
                "first_position_mass": [plain(x) for x in probe.first_position_mass_L.tolist()],
            }
            for probe in self.probes
        }
        content["similarity"] = [[plain(x) for x in row] for row in self.similarity.tolist()]
        lens = ("cross_entropy", "kl_to_final", "top1_agreement")
        content["embedding"] = {f"logit_lens_{name}": plain(getattr(self.lens, name)[0]) for name in lens}
        for i, layer in enumerate(content["layers"]):
            layer |= {f"logit_lens_{name}": plain(getattr(self.lens, name)[i + 1]) for name in lens}
            if self.ablation is not None:
                layer["attention_ablation"] = _measured(self.ablation.attention_delta_Ln[i])
                for j, head in enumerate(layer["heads"]):
                    head["ablation"] = _measured(self.ablation.head_delta_LHn[i, j])
        return content


def study(
    model: nn.Module,
    tokens_BT: Tensor,
    step: int | None = None,
    token_text: Callable[[int], str] | None = None,
    history: Sequence[Mapping] = (),
    with_ablation: bool = True,
    on_progress: Callable[[str, int], None] = lambda task, steps: None,
    known_text: bool = True,
    n_ids: int | None = None,
) -> Study:
    """Scan, probe, read every layer by the logit lens, compare layers, and ablate every head.

    Args:
        model, tokens_BT, step, token_text, history: As for `depth_scan`.
        with_ablation: Ablation takes about n_head · n_layer / 2 forward passes, nearly all of the time.
        on_progress: Called before each step, with what it is and how many steps there are.
        known_text: Whether the text is known to be of the kind that the network was trained on. If not, and if the loss
            shows that the text is foreign, alarms stay suspicions.
        n_ids: As for `logit_lens`.

    Raises:
        UserError: as `depth_scan`.
    """
    steps = 4 + with_ablation * model.config.n_layer
    on_progress("scanning", steps)
    scan = depth_scan(model, tokens_BT, step, token_text, history=history)
    on_progress("probing", steps)
    probes = probe_texts(model, tokens_BT, scan)
    on_progress("logit lens", steps)
    lens = logit_lens(model, tokens_BT, n_ids=n_ids)
    on_progress("comparing layers", steps)
    pairs = tokens_BT.numel() - len(tokens_BT)  # tokens but the first of each sequence
    undefined = torch.full((len(lens.cross_entropy),) * 2, math.nan)
    similarity = layer_similarity(model, tokens_BT) if pairs >= 2 else undefined
    ablation = None
    if with_ablation:
        ablation = ablate(model, tokens_BT, on_progress=lambda: on_progress("ablating", steps))
        scan = settled(scan, ablation)
    foreign = not known_text and not probes[0].cross_entropy < probes[0].reference + FOREIGN
    if foreign:
        scan = replace(scan, alarms=[replace(alarm, confirmed=False) for alarm in scan.alarms])
    return Study(scan, probes, lens, similarity, ablation, foreign)


def probe_texts(model: nn.Module, tokens_BT: Tensor, scan: DepthScanResult) -> list[Probe]:
    """The network on the text itself, whose scan this is, on random tokens of it and, if they fit, on some repeated."""
    types, counts = tokens_BT.unique(return_counts=True)
    unigram_entropy = float(torch.special.entr(counts / counts.sum()).sum())
    random_BT = random_tokens(tokens_BT, *tokens_BT.shape)
    # Name, text, reference, and how many predictions of each sequence don't count.
    texts = [("natural", tokens_BT, unigram_entropy, 0), ("random", random_BT, math.log(len(types)), 0)]
    if repeated := repeated_tokens(tokens_BT, len(tokens_BT), model.config.context_length):
        # The repeat's first token comes as a surprise; the rest could be copied without a doubt.
        texts.append(("repeated", repeated[0], 0.0, repeated[1]))
    probes = []
    for name, text_BT, reference, skipped in texts:
        loss = float(cross_entropies(model, text_BT)[:, skipped:].mean())
        scan_of_text = scan if name == "natural" else depth_scan(model, text_BT)
        probes.append(Probe(name, loss, reference, scan_of_text.heads["first_position_mass"].mean(1)))
    return probes


def settled(scan: DepthScanResult, ablation: Ablation) -> DepthScanResult:
    """The scan with verdicts and alarms that the ablation proves, and what it measured as evidence for the others."""
    verdicts = [
        [with_evidence(verdict, effect(delta_n), *interval(delta_n)) for verdict, delta_n in zip(*pair, strict=True)]
        for pair in zip(scan.verdicts, ablation.head_delta_LHn, strict=True)
    ]
    return replace(scan, verdicts=verdicts, alarms=[_settled_alarm(alarm, ablation) for alarm in scan.alarms])


def _settled_alarm(alarm: Alarm, ablation: Ablation) -> Alarm:
    proof = ALARMS[alarm.kind].proof
    if not proof:
        return alarm
    delta_n = ablation.attention_delta_Ln[alarm.layer]
    measured = f"without its attention the loss changes by {change(*interval(delta_n))}"
    confirmed = alarm.confirmed or effect(delta_n) in proof
    return replace(alarm, reason=f"{alarm.reason}; {measured}", confirmed=confirmed)


def _measured(delta_n: Tensor) -> dict:
    mean, low, high = (plain(x) for x in interval(delta_n))
    return {"mean": mean, "low": low, "high": high, "effect": effect(delta_n)}
