"""A sample of the network's text at validation, for TensorBoard's text tab."""

import lightning as L
import tiktoken

from callbacks.tensorboard import TensorBoardCallback
from gpt_lightning.decoding.options import Sampling
from gpt_lightning.decoding.text_generation import generate_text
from gpt_lightning.errors import UserError
from gpt_lightning.files import is_utf8
from gpt_lightning.model import GPT
from gpt_lightning.ranges import NonNegativeFloat, NonNegativeInt, PositiveInt, check_arguments
from gpt_lightning.training.sharding import reshard


class TextSamples(TensorBoardCallback):
    """Write `samples` to TensorBoard: the network's continuation of a prompt, with the same seed each time.

    Args:
        prompt: Text to continue.
        max_new_tokens: Length of the continuation; cut to fit the context.
        temperature: 0 takes the likeliest token, 1 samples as trained.
        every_n_validations: Write at every n-th validation; 0 never.
    """

    def __init__(
        self,
        prompt: str = "\n",
        max_new_tokens: PositiveInt = 200,
        temperature: NonNegativeFloat = Sampling.temperature,
        every_n_validations: NonNegativeInt = 1,
    ) -> None:
        check_arguments(TextSamples.__init__, locals(), "text_samples")
        super().__init__(every_n_validations)
        if not is_utf8(prompt):
            raise UserError("text_samples.prompt holds bytes that are not UTF-8, which config.yaml can't store.")
        self.prompt, self.max_new_tokens, self.temperature = prompt, max_new_tokens, temperature

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Try the prompt now, so that an unusable one ends the run at once, not at the first validation."""
        if self.every_n_validations:
            sample(pl_module.model, trainer.datamodule.encoding, self.prompt, 1, self.temperature)

    def write(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int) -> None:
        text = sample(pl_module.model, trainer.datamodule.encoding, self.prompt, self.max_new_tokens, self.temperature)
        preformatted = "\n".join("    " + line for line in text.splitlines())  # in Markdown
        trainer.logger.experiment.add_text("samples", preformatted, step)


def sample(gpt: GPT, encoding: tiktoken.Encoding, prompt: str, max_new_tokens: int, temperature: float) -> str:
    """The prompt and its continuation, which is cut to fit the context."""
    room = gpt.config.context_length - len(prompt.encode())  # a token is at least one byte
    was_training = gpt.training
    gpt.eval()
    new = max(1, min(max_new_tokens, room))
    text = "".join(generate_text(gpt, encoding, prompt, Sampling(temperature=temperature), new))
    gpt.train(was_training)
    reshard(gpt)
    return prompt + text
