"""`trainer.max_time` for one call of train.py."""

from lightning.pytorch.callbacks import Timer


class TimeLimit(Timer):
    """Lightning's Timer without its memory: a run that is resumed gets the whole time again.

    Lightning's own counts the time before the resume too, so a run that its time limit stopped would stop at once.
    """

    def __init__(self, duration: str | dict[str, int]) -> None:
        super().__init__(duration, interval="step")

    def load_state_dict(self, state_dict: dict) -> None:
        """Forget what was spent before."""
