"""One checkpoint, analysed: load, scan, draw, write. The numbers and pictures come from interpret/."""

import json
import pydoc_data.topics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from gpt_lightning import runs
from gpt_lightning.checkpoint import LoadedCheckpoint, load_checkpoint
from gpt_lightning.data.tokenizer import encode_bytes
from gpt_lightning.device import choose_device
from gpt_lightning.errors import UserError
from gpt_lightning.files import whole_file
from gpt_lightning.interpret.figures import attention_gallery, figure_to_png, overview
from gpt_lightning.interpret.labels import token_label
from gpt_lightning.interpret.report import report_html
from gpt_lightning.interpret.result import DepthScanResult
from gpt_lightning.interpret.scan import attention_maps, depth_scan

MAX_SEQUENCES = 8
SHOWN_TOKENS = 48  # in the attention galleries: as many as can be labelled


def analyse(
    checkpoint: Path, output: Path | None = None, text: Path | None = None, device: str = "auto"
) -> tuple[DepthScanResult, list[Path]]:
    """Scan a checkpoint and write `depth_scan.json`, `depth_scan.png`, `attention/layer_LL.png` and `report.html`.

    Args:
        checkpoint: A checkpoint that train.py wrote.
        output: Directory for the results; None means `analysis/` in the checkpoint's run, or beside the checkpoint.
        text: File to scan on; None means the validation text that the checkpoint carries.
        device: "auto", "cpu" or "cuda".

    Returns:
        What the scan found, and the files written.

    Raises:
        UserError: the checkpoint, the text or the device can't be used.
    """
    where = choose_device(device)
    loaded = load_checkpoint(checkpoint)
    output = output or (runs.run_of(checkpoint) or checkpoint.parent) / "analysis"
    tokens, source = sequences_to_scan(loaded, text)
    loaded.model.to(where)

    def label(token: int) -> str:
        return token_label(loaded.encoding, token)

    n_layer = loaded.model.config.n_layer
    written = []
    with tqdm(total=n_layer + 3, desc="analysing", unit="picture", leave=False) as bar:

        def write(name: str, content: bytes) -> None:
            with whole_file(output / name) as file:
                file.write(content)
            written.append(output / name)
            bar.update()

        result = depth_scan(loaded.model, tokens, loaded.step, label)
        write("depth_scan.json", (json.dumps(result.to_json(), indent=1) + "\n").encode())
        overview_png = figure_to_png(overview(result))
        write("depth_scan.png", overview_png)
        gallery_pngs = draw_galleries(loaded, tokens[0], label, result, write)
        report = report_html(result, str(checkpoint), source, overview_png, gallery_pngs)
        write("report.html", report.encode())
    return result, written


def draw_galleries(
    loaded: LoadedCheckpoint,
    sequence_T: Tensor,
    label: Callable[[int], str],
    result: DepthScanResult,
    write: Callable[[str, bytes], None],
) -> list[bytes]:
    """Draw and write each layer's attention over the beginning of one sequence; returns the PNG files' bytes."""
    labels = [label(token) for token in sequence_T[:SHOWN_TOKENS].tolist()]
    pngs = []
    for layer, pattern in enumerate(attention_maps(loaded.model, sequence_T, SHOWN_TOKENS)):
        pngs.append(figure_to_png(attention_gallery(pattern, labels, result.verdicts[layer], layer)))
        write(f"attention/layer_{layer:02d}.png", pngs[-1])
    return pngs


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
    return tokens[: n * length].view(n, length), source


def read_beginning(path: Path, context_length: int) -> bytes:
    """As much of a file as the scan can use; a token of English text is rarely longer than 16 bytes."""
    try:
        with open(path, "rb") as file:
            return file.read(16 * MAX_SEQUENCES * context_length)
    except OSError as error:
        raise UserError(f"The text {path} can't be read: {error.strerror}.") from error
