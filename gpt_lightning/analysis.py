"""One checkpoint, analysed: load, look, draw, write. The numbers and pictures come from interpret/."""

import json
import pydoc_data.topics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from gpt_lightning import runs
from gpt_lightning.checkpoint import LoadedCheckpoint, load_checkpoint
from gpt_lightning.data.tokenizer import encode_bytes, same_tokenizer, tokenizer_state
from gpt_lightning.device import choose_device
from gpt_lightning.errors import UserError
from gpt_lightning.files import atomic_file
from gpt_lightning.interpret import figures, galleries, plots
from gpt_lightning.interpret.ablation import interval
from gpt_lightning.interpret.draw.canvas import to_png
from gpt_lightning.interpret.hover import attention_explorer
from gpt_lightning.interpret.judge.heads_of_note import choose_heads
from gpt_lightning.interpret.labels import token_label
from gpt_lightning.interpret.pooled import attention_pooled_maps
from gpt_lightning.interpret.predictions import cross_entropies
from gpt_lightning.interpret.redraw import Drawn, kept_frames
from gpt_lightning.interpret.report import Comparison, Picture, report_html
from gpt_lightning.interpret.scan import attention_maps, depth_scan
from gpt_lightning.interpret.study import Study, study

MAX_SEQUENCES = 8
SHOWN_TOKENS = 48  # in the attention galleries: as many as can be labelled
EXPLORED_TOKENS = 128  # in the report's text to point at
POOLED_FROM = 129  # tokens: longer sequences get pooled pictures of their whole length


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
        with_ablation: Whether to ablate every head, which is nearly all of the time.
        tokenizer: Of checkpoints from elsewhere that come without.

    Returns:
        What was found, what the other checkpoint is like, and the files written.

    Raises:
        UserError: a checkpoint, the text or the device can't be used.
    """
    where = choose_device(device)
    loaded = load_checkpoint(checkpoint, tokenizer)
    other = None if compare is None else load_checkpoint(compare, tokenizer)
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    output = output or (runs.run_of(checkpoint) or beside) / "analysis"
    tokens, source = sequences_to_scan(loaded, text)
    # Scans of another text do not go on where those of the run left off.
    history = loaded.scans if text is None else []
    loaded.model.to(where)
    n_layer = loaded.model.config.n_layer
    pooled = tokens.size(1) >= POOLED_FROM
    pictures_to_draw = 4 + with_ablation + bool(history) + (compare is not None) + n_layer * (1 + pooled)
    steps = 4 + n_layer * with_ablation + (compare is not None) + pictures_to_draw
    written: list[Path] = []
    with tqdm(total=steps, unit="step", leave=False) as bar:

        def on_progress(what: str) -> None:
            bar.set_description(what)
            bar.update()

        def write(name: str, content: bytes) -> None:
            with atomic_file(output / name) as file:
                file.write(content)
            written.append(output / name)

        found = study(
            loaded.model,
            tokens,
            loaded.step,
            partial(token_label, loaded.encoding),
            history,
            with_ablation,
            on_progress,
            n_ids=loaded.encoding.n_vocab,
        )
        comparison = None
        if other is not None:
            on_progress("comparing")
            comparison = compared(loaded, tokens, found, other, str(compare), text, where)
        report = found.to_json()
        if comparison is not None:
            report["compared_with"] = comparison.to_json()
        write("depth_scan.json", (json.dumps(report, indent=1) + "\n").encode())
        pictures = []
        for picture in draw(loaded, tokens[0], found, history, comparison, str(checkpoint)):
            on_progress("drawing")
            pictures.append(picture)
            write(picture.file, picture.png)
        explorer = explore(loaded, tokens[0], found)
        page = report_html(found, str(checkpoint), source, pictures, explorer, comparison)
        write("report.html", page.encode())
    return found, comparison, written


def draw(
    loaded: LoadedCheckpoint,
    sequence_T: Tensor,
    found: Study,
    history: list[dict],
    comparison: Comparison | None,
    name: str,
) -> Iterator[Picture]:
    """Every picture, one after the other: first what is most worth a look."""
    scan, label = found.scan, partial(token_label, loaded.encoding)
    labels = [label(token) for token in sequence_T[:SHOWN_TOKENS].tolist()]
    yield picture("depth_scan.png", "overview", figures.overview(scan))
    if comparison is not None:
        figure = plots.compare_figure(scan, comparison.scan, (name, comparison.name))
        yield picture("comparison.png", "comparison", figure)
    if history:
        records = [*history, scan.record()]
        values = torch.tensor([[layer["normalized_entropy"] for layer in record["layers"]] for record in records])
        figure = figures.entropy_over_time([record["step"] for record in records], values)
        yield picture("entropy_over_time.png", "entropy over time", figure)
    maps = attention_maps(loaded.model, sequence_T, SHOWN_TOKENS)
    figure = galleries.head_gallery(galleries.panels_of_note(scan, maps), labels, galleries.NOTE_TITLE)
    yield picture("attention/heads_of_note.png", "heads of note", figure)
    if found.ablation is not None:
        yield picture("ablation.png", "ablation", draw_ablation(found))
    lens = found.lens
    guesses = [[label(token) for token in row] for row in lens.top_tokens.tolist()]
    figure = plots.logit_lens_figure(
        lens.cross_entropy, lens.kl_to_final, lens.top1_agreement, guesses, labels[: len(guesses[0])]
    )
    yield picture("logit_lens.png", "logit lens", figure)
    yield picture("similarity.png", "similarity", plots.similarity_figure(found.similarity))
    frames = kept_frames()
    for layer, pattern in enumerate(maps):
        figure = galleries.attention_gallery(pattern, labels, scan.verdicts[layer], layer, frames)
        yield picture(f"attention/layer_{layer:02d}.png", "layer", figure)
    if len(sequence_T) >= POOLED_FROM:
        for layer, (mean, largest) in enumerate(attention_pooled_maps(loaded.model, sequence_T)):
            figure = galleries.pooled_gallery(mean, largest, len(sequence_T), scan.verdicts[layer], layer)
            yield picture(f"attention/layer_{layer:02d}_pooled.png", "pooled", figure)


def picture(file: str, kind: str, figure: Figure | Drawn) -> Picture:
    """Drawn now, so that only its bytes stay in memory."""
    return Picture(file, kind, to_png(figure))


def draw_ablation(found: Study) -> Figure:
    """Every head's and every layer's change of the loss."""
    heads = [[interval(delta_n) for delta_n in layer] for layer in found.ablation.head_delta_LHn]
    mean_LH3 = torch.tensor(heads)
    excludes_0_LH = (mean_LH3[..., 1] > 0) | (mean_LH3[..., 2] < 0)
    attention_L3 = torch.tensor([interval(delta_n) for delta_n in found.ablation.attention_delta_Ln])
    return plots.ablation_figure(mean_LH3[..., 0], excludes_0_LH, *attention_L3.unbind(-1))


def explore(loaded: LoadedCheckpoint, sequence_T: Tensor, found: Study) -> str:
    """The report's text to point at, beginning with the head most worth a look."""
    shown = sequence_T[:EXPLORED_TOKENS]
    labels = [token_label(loaded.encoding, token) for token in shown.tolist()]
    start = choose_heads(found.scan)[0]
    return attention_explorer(attention_maps(loaded.model, shown, EXPLORED_TOKENS), labels, found.scan.verdicts, start)


def compared(
    loaded: LoadedCheckpoint,
    tokens: Tensor,
    found: Study,
    other: LoadedCheckpoint,
    name: str,
    text: Path | None,
    where: torch.device,
) -> Comparison:
    """The other checkpoint, scanned on the same tokens if both have one tokenizer, else on its own of the same text."""
    length = min(tokens.size(1), other.model.config.context_length)
    same = same_tokenizer(tokenizer_state(loaded.encoding), tokenizer_state(other.encoding)) and length == tokens.size(
        1
    )
    other_tokens = tokens if same else sequences_to_scan(other, text)[0]
    other.model.to(where)
    own = other.validation_sequences
    history = other.scans if own is not None and own.equal(other_tokens) else []
    scan = depth_scan(other.model, other_tokens, other.step, partial(token_label, other.encoding), history=history)
    loss = float(cross_entropies(other.model, other_tokens).mean())
    return Comparison(name, scan, loss, same)


def sequences_to_scan(loaded: LoadedCheckpoint, text: Path | None) -> tuple[Tensor, str]:
    """Up to 8 sequences, (n, T) int64, and in words where they are from."""
    if text is None and loaded.validation_sequences is not None:
        return loaded.validation_sequences, "the run's validation text"
    if text is None:
        content, source = "\n\n".join(pydoc_data.topics.topics.values()).encode(), "Python's documentation"
    else:
        content, source = read_beginning(text, loaded.model.config.context_length), str(text)
    tokens = torch.from_numpy(encode_bytes(loaded.encoding, content).astype("int64"))
    length = min(loaded.model.config.context_length, len(tokens))
    if length < 2:
        raise UserError(f"{source} holds {len(tokens)} tokens; a scan needs at least 2.")
    n = min(MAX_SEQUENCES, len(tokens) // length)
    # Of a text that repeats itself each sequence once: the same one again is no evidence.
    return tokens[: n * length].view(n, length).unique(dim=0), source


def read_beginning(path: Path, context_length: int) -> bytes:
    """As much of a file as the scan can use; a token of English text is rarely longer than 16 bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(16 * MAX_SEQUENCES * context_length)
    except OSError as error:
        raise UserError(f"The text {path} can't be read: {error.strerror}.") from error
