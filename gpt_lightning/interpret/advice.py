"""What each verdict means and what to try next: the one place where advice is written.

KINDS are of heads, the worst first; ALARMS are of layers. Words, letters and colours only: the rules are in verdicts.py
and alarms.py.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What every head of one kind has in common: a letter and colour for pictures, and words for people."""

    letter: str
    colour: str
    meaning: str
    advice: str
    stands_out: bool = False


KINDS = {
    "broken": Kind(
        "B",
        "#b3202c",
        "its numbers are not finite",
        "The run has diverged: go back to the last finite checkpoint with a lower learning rate or gradient clipping.",
        stands_out=True,
    ),
    "untrained": Kind("U", "#8a8f98", "step 0, nothing is learned yet", "Train first; every head starts out diffuse."),
    "harmful": Kind(
        "H",
        "#e0303f",
        "the loss is lower without it",
        "Rare and often a sign of overfitting or of a step just too large: validate more often, try a lower learning "
        "rate, dropout, or removing the head.",
        stands_out=True,
    ),
    "dead": Kind(
        "D",
        "#b5651d",
        "adds next to nothing, and the loss is the same without it",
        "It is wasted. With many of them fewer heads, or a lower weight decay, cost nothing; from the start of a run a "
        "lower learning rate or more warm-up keeps heads alive.",
        stands_out=True,
    ),
    "dead?": Kind(
        "d",
        "#d9822b",
        "adds next to nothing to the residual stream",
        "Ablate it to be sure (analyze.py does). If many heads are dead, fewer heads or a lower weight decay cost "
        "nothing.",
        stands_out=True,
    ),
    "quiet": Kind(
        "Q", "#c9a227", "adds little, but the loss needs it", "Nothing to do: little is enough for its task."
    ),
    "induction": Kind(
        "I",
        "#1864ab",
        "finds an earlier copy of the token and looks at what came next",
        "Healthy: the head behind in-context learning (Olsson et al. 2022).",
    ),
    "duplicate-token": Kind(
        "C", "#4a8fd4", "looks at an earlier copy of the token", "Healthy: knows what has occurred."
    ),
    "previous-token": Kind("P", "#2f6db5", "looks at the token before", "Healthy: induction heads build on it."),
    "sink (no-op)": Kind(
        "s",
        "#7d6bb0",
        "rests on the first token, whose value is drained: it switches itself off",
        "Normal in trained models. An output gate or a learned sink logit gives it another way to rest.",
    ),
    "sink (active)": Kind(
        "S",
        "#553c9a",
        "attends to the first token and passes its value on",
        "Normal in trained models. Look at what the first token is: its value works as a bias.",
    ),
    "stripe": Kind(
        "T",
        "#c2378f",
        "most queries attend to one and the same later token",
        "Look at that column in the attention picture. With growing logits try QK-norm, gradient clipping or a lower "
        "learning rate; alone it may be harmless.",
        stands_out=True,
    ),
    "local": Kind("L", "#1f8a70", "attends mostly to the last 8 tokens", "Healthy, above all in early layers."),
    "diffuse": Kind(
        "F",
        "#a08b2d",
        "averages almost evenly over the whole context",
        "Early in training normal. If it lasts, the head is an average of the context: more steps or fewer heads.",
    ),
    "mixed": Kind("M", "#5c6773", "no single pattern", "Nothing to do: most heads of a healthy model are mixed."),
}


@dataclass(frozen=True)
class AlarmKind:
    """What is wrong with a layer, as the rest of a sentence that begins with "Layer 3", and what to try."""

    meaning: str
    advice: str


ALARMS = {
    "broken": AlarmKind(
        "has numbers that are not finite",
        "Go back to the last finite checkpoint (--ckpt_path best) with a lower --model.learning_rate or "
        "--trainer.gradient_clip_val 1.0.",
    ),
    "entropy collapse": AlarmKind(
        "has an entropy collapse: its attention sticks to a few tokens",
        "Lower --model.learning_rate, more --model.warmup_steps, --trainer.gradient_clip_val 1.0; QK-norm bounds the "
        "logits for good. Go on from a checkpoint from before the collapse: it rarely heals.",
    ),
    "rank collapse": AlarmKind(
        "has a rank collapse: its tokens have become alike",
        "Look at the layers before it for an entropy collapse or dead attention; lower --model.learning_rate or "
        "--model.weight_decay.",
    ),
    "dead attention": AlarmKind(
        "has dead attention: its heads add next to nothing",
        "Ablate it to be sure (analyze.py does). Lower --model.learning_rate or --model.weight_decay, more "
        "--model.warmup_steps, or fewer layers.",
    ),
    "dead layer": AlarmKind(
        "is dead: it passes the residual stream on unchanged",
        "Fewer layers would do the same for less; or a lower --model.learning_rate or --model.weight_decay from the "
        "start.",
    ),
    "dead heads": AlarmKind(
        "has dead heads: they add next to nothing",
        "Ablate them to be sure (analyze.py does). More --model.warmup_steps or a lower --model.learning_rate keeps "
        "heads alive; fewer heads would do the same for less.",
    ),
    "lazy layer": AlarmKind(
        "is lazy: nearly all its heads rest on one token each, and the loss is the same without them",
        "Its attention is not used: fewer layers, or an output gate that gives heads another way to rest.",
    ),
}
