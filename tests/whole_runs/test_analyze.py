"""analyze.py: what it writes, and what each of its options adds or leaves out."""

import json
import sys

import pytest
import torch

from gpt_lightning.data.tokenizer import load_tokenizer
from gpt_lightning.interop import save_plain
from gpt_lightning.model import GPT, GPTConfig
from tests.whole_runs.conftest import error_line, ranks


@pytest.fixture
def analyse(must_work, last, tmp_path):
    """Analyse the run's checkpoint; returns depth_scan.json's content, the names of all files, and standard output."""

    def run(*options: object) -> tuple[dict, set[str], str]:
        out, _ = must_work("analyze.py", f"--checkpoint={last}", "--output=out", *options)
        names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
        assert {f"out/{name}" for name in names} <= set(out.splitlines())  # it says what it wrote
        return json.loads((tmp_path / "out/depth_scan.json").read_text()), names, out

    return run


def test_ablation_has_an_interval_for_each_head_and_layer_unless_it_is_left_out(analyse):
    content, files, _ = analyse()
    assert "ablation.png" in files
    for layer in content["layers"]:
        for measured in (layer["attention_ablation"], *(head["ablation"] for head in layer["heads"])):
            assert measured["low"] <= measured["mean"] <= measured["high"]


def test_without_ablation_everything_else_is_there(analyse, last):
    content, files, _ = analyse("--no-ablation", "--device=cpu")
    assert "ablation.png" not in files
    assert not any("ablation" in head for layer in content["layers"] for head in layer["heads"])
    # The logit lens, the similarity of layers, the embedding being the first, and three kinds of text.
    assert {"logit_lens.png", "similarity.png", "report.html", "attention/heads_of_note.png"} <= files
    lens = {f"logit_lens_{name}" for name in ("cross_entropy", "kl_to_final", "top1_agreement")}
    assert all(lens <= set(layer) for layer in (content["embedding"], *content["layers"]))
    assert [len(row) for row in content["similarity"]] == [3, 3, 3]
    assert set(content["probes"]) == {"natural", "random", "repeated"}
    for name, probe in content["probes"].items():
        beside = "unigram_entropy" if name == "natural" else "floor"
        assert {"cross_entropy", beside, "first_position_mass"} <= set(probe)
        assert len(probe["first_position_mass"]) == 2
    assert content["step"] == torch.load(last, weights_only=True)["global_step"]


def test_the_text_that_is_given_is_scanned_and_compared_on_by_a_checkpoint_of_another_tokenizer(analyse, tmp_path):
    """The other checkpoint reads the text in tokens of its own."""
    (tmp_path / "ranks").write_bytes(ranks(b"th", b"the"))
    encoding = load_tokenizer(str(tmp_path / "ranks"))
    save_plain(GPT(GPTConfig(1, 2, 16, 32, encoding.n_vocab)), tmp_path / "other", encoding)
    (tmp_path / "my.txt").write_text("the zebra crossed the quartz " * 30)
    content, files, out = analyse("--no-ablation", "--text=my.txt", "--compare=other")
    page = (tmp_path / "out/report.html").read_text()
    assert "my.txt" in page
    assert "validation text" not in page
    assert content["probes"]["natural"]["unigram_entropy"] < 2.7  # of 13 letters; the run's own text has more
    assert "comparison.png" in files
    assert "B: other, loss " in out
    assert content["compared_with"]["same_tokens"] is False
    assert len(content["compared_with"]["layers"]) == 1


def test_a_network_without_a_tokenizer_asks_for_one(main, tmp_path):
    save_plain(GPT(GPTConfig(1, 2, 16, 32, 300)), tmp_path / "network", load_tokenizer("bytes"))
    (tmp_path / "network/gpt_lightning_tokenizer.json").unlink()
    status, _, err = main("analyze.py", "--checkpoint=network")
    assert status == 1
    assert "--tokenizer bytes" in error_line(err)


@pytest.mark.parametrize("own_text", [True, False])
def test_a_python_without_its_documentation_is_no_traceback(main, last, tmp_path, monkeypatch, own_text):
    """Some distributions leave pydoc_data out. Only networks that come without a text need it."""
    for name in [name for name in sys.modules if name.startswith("pydoc_data") or name.endswith(".analysis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydoc_data", None)
    save_plain(GPT(GPTConfig(1, 2, 16, 32, 256)), tmp_path / "network", load_tokenizer("bytes"))
    checkpoint = last if own_text else "network"
    status, _, err = main("analyze.py", f"--checkpoint={checkpoint}", "--output=out", "--no-ablation")
    if own_text:
        assert status == 0, err
    else:
        assert status == 1
        assert "--text" in error_line(err)
