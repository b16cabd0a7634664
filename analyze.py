"""Find out what each layer and head of a checkpoint does.

python analyze.py --checkpoint runs/default/version_0/checkpoints/last.ckpt
"""

from pathlib import Path

from gpt_lightning.command_line import OneLineParser, clear_errors


def main() -> None:
    """Analyse a checkpoint, print the scan and say where the results lie."""
    parser = OneLineParser(description="Scan every layer and head of a checkpoint of this project.")
    add = parser.add_argument
    add(
        "--checkpoint",
        type=Path,
        required=True,
        help="checkpoint file, e.g. runs/…/checkpoints/last.ckpt; or nanoGPT's, or a directory of Hugging Face's GPT-2",
    )
    add("--tokenizer", help="bytes, gpt2 or a ranks file, for a network that comes without")
    add("--output", type=Path, help="directory for the results (default: analysis/ in the run's directory)")
    add("--text", type=Path, help="file to scan on (default: the run's own validation text)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="where to compute (default: auto)")
    add("--compare", type=Path, metavar="OTHER", help="another checkpoint, to put beside this one")
    add("--no-ablation", action="store_true", help="leave out ablation, which takes nearly all of the time")
    args = parser.parse_args()

    # These import torch, so they come after parsing: --help and a mistyped option answer at once.
    from cli.analysis import analyse
    from gpt_lightning.interpret.write.tables import comparison_table, text_table

    result, comparison, written = analyse(
        args.checkpoint, args.output, args.text, args.device, args.compare, not args.no_ablation, args.tokenizer
    )
    print(text_table(result.scan))
    if comparison is not None:
        names = (str(args.checkpoint), comparison.name)
        losses = (result.probes[0].cross_entropy, comparison.cross_entropy)
        print("\n" + comparison_table((result.scan, comparison.scan), names, losses))
    print(f"\n{result.scan.summary}\n" + (f"{result.caution}\n" if result.foreign else ""))
    print(*written, sep="\n")


if __name__ == "__main__":
    with clear_errors():
        main()
