"""What analyze.py does with a checkpoint: loads it, studies it, and writes report, JSON and pictures to files.

The numbers and pictures come from interpret/; parsing and printing are in analyze.py.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from gpt_lightning.checkpoints import runs
from gpt_lightning.checkpoints.load import LoadedCheckpoint
from gpt_lightning.data.token_label import token_label
from gpt_lightning.data.tokenizer import encode_bytes, same_tokenizer, tokenizer_state
from gpt_lightning.device import choose_device
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interop.any_checkpoint import load_checkpoint
from gpt_lightning.interpret.draw import galleries, matrices, plots
from gpt_lightning.interpret.draw.cached_figures import Drawn, kept_frames
from gpt_lightning.interpret.draw.canvas import to_png
from gpt_lightning.interpret.heads_of_note import choose_heads
from gpt_lightning.interpret.measure.ablation import interval
from gpt_lightning.interpret.measure.pooled import attention_pooled_maps
from gpt_lightning.interpret.measure.predictions import cross_entropies
from gpt_lightning.interpret.scan import attention_maps, depth_scan
from gpt_lightning.interpret.study import Study, study
from gpt_lightning.interpret.write.attention_explorer import attention_explorer
from gpt_lightning.interpret.write.report import Comparison, Picture, report_html

MAX_SEQUENCES = 8
SHOWN_TOKENS = 48  # in the attention galleries: as many as can be labelled
EXPLORED_TOKENS = 128  # in the report's text to point at
POOLED_FROM = 129  # tokens: longer sequences get pooled pictures of their entire length

Drawing = tuple[str, str, Callable[[], bytes]]  # file, kind of picture for the report, and what draws the PNG


def analyse(
    checkpoint: Path,
    output: Path | None = None,
    text: Path | None = None,
    device: str = "auto",
    compare: Path | None = None,
    with_ablation: bool = True,
    tokenizer: str | None = None,
) -> tuple[Study, Comparison | None, list[Path]]:
    """Study a checkpoint and write `depth_scan.json`, `report.html` and the pictures.

    Args:
        checkpoint: A checkpoint that train.py wrote, or one from elsewhere that `load_checkpoint` reads.
        output: Directory for the results; None means `analysis/` in the checkpoint's run, or beside the checkpoint.
        text: File to scan on; None means the validation text that the checkpoint carries.
        device: "auto", "cpu" or "cuda".
        compare: Another checkpoint, to put beside this one.
        with_ablation: Whether to ablate every head, which takes nearly all of the time.
        tokenizer: Of checkpoints from elsewhere that come without.

    Returns:
        The study, what the other checkpoint is like, and the files written.

    Raises:
        UserError: a checkpoint, the text or the device can't be used.
    """
    chosen_device = choose_device(device)
    loaded = load_checkpoint(checkpoint, tokenizer)
    other = None if compare is None else load_checkpoint(compare, tokenizer)
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    output = output or (runs.run_of(checkpoint) or beside) / "analysis"
    tokens, source = sequences_to_scan(loaded, text)
    is_own_text = tokens is loaded.validation_sequences
    history = loaded.scans if is_own_text else []  # a scan of another text does not continue those of the run
    label = partial(token_label, loaded.encoding)
    loaded.model.to(chosen_device)
    with tqdm(unit=" steps", leave=False) as bar:

        def on_progress(step: str, steps: int) -> None:
            bar.total = steps
            bar.set_description_str(step)
            bar.update()

        result = study(
            loaded.model,
            tokens,
            loaded.step,
            label,
            history,
            with_ablation,
            on_progress,
            known_text=is_own_text,
            n_ids=loaded.encoding.n_vocab,
        )
        comparison = None
        if other is not None:
            on_progress("comparing", bar.total + 1)
            other.model.to(chosen_device)
            comparison = compared(loaded, tokens, other, str(compare), text)

    name, contents = str(checkpoint), {}
    pictures = drawings(loaded, tokens[0], result, history, comparison, name)

    compared_with = {} if comparison is None else {"compared_with": comparison.to_json()}
    findings = json.dumps(result.to_json() | compared_with, indent=1) + "\n"

    def report() -> bytes:
        shown = [Picture(file, kind, contents[file]) for file, kind, _ in pictures]
        labels = [label(token) for token in tokens[0, :EXPLORED_TOKENS].tolist()]
        maps = attention_maps(loaded.model, tokens[0], EXPLORED_TOKENS)
        # The text to point at begins with the head most worth a look.
        explorer = attention_explorer(maps, labels, result.scan.verdicts, choose_heads(result.scan)[0])
        return report_html(result, name, source, shown, explorer, comparison).encode()

    files = {"depth_scan.json": findings.encode, **{file: draw for file, _, draw in pictures}, "report.html": report}
    for file, content in tqdm(files.items(), "drawing", unit=" files", leave=False):
        contents[file] = content()
        with atomic_file(output / file) as opened:
            opened.write(contents[file])
    return result, comparison, [output / file for file in contents]


def drawings(
    loaded: LoadedCheckpoint,
    sequence_T: Tensor,
    result: Study,
    history: list[dict],
    comparison: Comparison | None,
    name: str,
) -> list[Drawing]:
    """Every picture, those most worth a look first."""
    scan, label = result.scan, partial(token_label, loaded.encoding)
    labels = [label(token) for token in sequence_T[:SHOWN_TOKENS].tolist()]
    maps = attention_maps(loaded.model, sequence_T, SHOWN_TOKENS)
    pictures: list[Drawing] = []

    def add(file: str, kind: str, draw: Callable[..., Figure | Drawn], *arguments: Any) -> None:
        pictures.append((file, kind, lambda: to_png(draw(*arguments))))

    add("depth_scan.png", "overview", matrices.overview, scan)
    if comparison is not None:
        names = (name, comparison.name)
        add("comparison.png", "comparison", plots.compare_figure, scan, comparison.scan, names)
    if history:
        records = [*history, scan.record()]
        add("entropy_over_time.png", "entropy over time", matrices.entropy_of_records, records)
    of_note = galleries.panels_of_note(scan, maps)
    add("attention/heads_of_note.png", "heads of note", galleries.head_gallery, of_note, labels, galleries.NOTE_TITLE)
    if result.ablation is not None:
        add("ablation.png", "ablation", draw_ablation, result)
    lens = result.lens
    guesses = [[label(token) for token in row] for row in lens.top_tokens.tolist()]
    numbers = (lens.cross_entropy, lens.kl_to_final, lens.top1_agreement)
    add("logit_lens.png", "logit lens", plots.logit_lens_figure, *numbers, guesses, labels[: len(guesses[0])])
    add("similarity.png", "similarity", plots.similarity_figure, result.similarity)
    frames = kept_frames()
    for layer, pattern in enumerate(maps):
        arguments = (pattern, labels, scan.verdicts[layer], layer, frames)
        add(f"attention/layer_{layer:02d}.png", "layer", galleries.attention_gallery, *arguments)
    if len(sequence_T) >= POOLED_FROM:
        for layer, (mean, largest) in enumerate(attention_pooled_maps(loaded.model, sequence_T)):
            arguments = (mean, largest, len(sequence_T), scan.verdicts[layer], layer)
            add(f"attention/layer_{layer:02d}_pooled.png", "pooled", galleries.pooled_gallery, *arguments)
    return pictures


def draw_ablation(result: Study) -> Figure:
    """Every head's and every layer's change of the loss."""
    heads = [[interval(delta_n) for delta_n in layer] for layer in result.ablation.head_delta_LHn]
    mean_LH3 = torch.tensor(heads)
    excludes_0_LH = (mean_LH3[..., 1] > 0) | (mean_LH3[..., 2] < 0)
    attention_L3 = torch.tensor([interval(delta_n) for delta_n in result.ablation.attention_delta_Ln])
    return plots.ablation_figure(mean_LH3[..., 0], excludes_0_LH, *attention_L3.unbind(-1))


def compared(
    loaded: LoadedCheckpoint, tokens: Tensor, other: LoadedCheckpoint, name: str, text: Path | None
) -> Comparison:
    """Scan the other checkpoint on the same tokens if both have one tokenizer, else on the same text in its own."""
    fits = tokens.size(1) <= other.model.config.context_length
    same = fits and same_tokenizer(tokenizer_state(loaded.encoding), tokenizer_state(other.encoding))
    other_tokens = tokens if same else sequences_to_scan(other, text)[0]
    own = other.validation_sequences
    history = other.scans if own is not None and own.equal(other_tokens) else []
    scan = depth_scan(other.model, other_tokens, other.step, partial(token_label, other.encoding), history=history)
    return Comparison(name, scan, float(cross_entropies(other.model, other_tokens).mean()), same)


def sequences_to_scan(loaded: LoadedCheckpoint, text: Path | None) -> tuple[Tensor, str]:
    """Up to 8 sequences, (n, T) int64, and where they are from, in words.

    Raises:
        UserError: the text can't be read, or is too short.
    """
    if text is None and loaded.validation_sequences is not None:
        return loaded.validation_sequences, "the run's validation text"
    if text is None:
        content, source = pythons_documentation(), "Python's documentation"
    else:
        content, source = read_beginning(text, loaded.model.config.context_length), str(text)
    tokens = torch.from_numpy(encode_bytes(loaded.encoding, content).astype("int64"))
    length = min(loaded.model.config.context_length, len(tokens))
    if length < 2:
        raise UserError(f"{source} holds {len(tokens)} tokens; a scan needs at least 2.")
    n = min(MAX_SEQUENCES, len(tokens) // length)
    # A sequence that a repetitive text holds several times counts once: the same again is no evidence.
    return tokens[: n * length].view(n, length).unique(dim=0), source


def pythons_documentation() -> bytes:
    """English text that most Pythons come with; UserError where it is missing."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError("This Python comes without its documentation (pydoc_data): give a --text.") from error
    return "\n\n".join(topics.values()).encode()


def read_beginning(path: Path, context_length: int) -> bytes:
    """As much of a file as the scan can use; a token of English text is rarely longer than 16 bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(16 * MAX_SEQUENCES * context_length)
    except OSError as error:
        raise UserError(f"The text {path} can't be read: {error.strerror}.") from error
