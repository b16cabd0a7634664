"""Byte-level BPE learnt from a text: merges by hand, against the library, and through files."""

import os
import random
import re
import subprocess
import sys

import pytest

from gpt_lightning.data.tokenizer import MAX_IDS, bpe_size, encode_bytes, load_tokenizer, vocabulary_size
from gpt_lightning.data.tokens import bpe
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text

# Of spaces and the letter b there is no pair before ab is one: ab occurs 9 times, " ab" 5 times then, and after that
# " abab" twice; "abab" at the start of the text is alone.
BY_HAND = b"abab abab abab ab ab ab"
MERGES_BY_HAND = [b"ab", b" ab", b" abab"]


@pytest.fixture
def learnt(tmp_path):
    """Learns a tokenizer from one piece of text and loads it from its file, as training does."""
    pytest.importorskip("tokenizers")

    def learn(text: bytes, vocabulary: int):
        bpe.write_ranks(bpe.train_ranks([text], vocabulary), tmp_path / "learnt.tiktoken")
        return load_tokenizer(str(tmp_path / "learnt.tiktoken"))

    return learn


def ranks_of(pieces, vocabulary):
    pytest.importorskip("tokenizers")
    return bpe.train_ranks(pieces, vocabulary)


def random_text(seed: int, size: int) -> str:
    """Little sense and much of what patterns differ in: white space of all kinds, contractions, marks, other scripts.

    Few letters, so that they come in runs and in many orders.
    """
    generator = random.Random(seed)
    letters = "aaabbb  \n\n\t\r'sdé漢ñ1²٣!<|_.\u3000\xa0\x85\u2028\u200b\x1f\u0301\U0001f600\U00010400"
    return "".join(generator.choice(letters) for _ in range(size))


def test_merges_worked_out_by_hand():
    ranks = ranks_of([BY_HAND], 260)
    assert list(ranks)[:256] == [bytes([byte]) for byte in range(256)]
    assert list(ranks)[256:] == MERGES_BY_HAND
    assert list(ranks.values()) == list(range(259))


def test_a_smaller_vocabulary_has_the_first_merges():
    assert list(ranks_of([BY_HAND], 258))[256:] == MERGES_BY_HAND[:1]
    assert len(ranks_of([BY_HAND], 257)) == 256


def test_the_last_id_ends_texts(learnt):
    encoding = learnt(BY_HAND, 260)
    assert encoding.n_vocab == vocabulary_size("bpe:260") == 260
    assert encoding.eot_token == 259
    assert encoding.encode("abab abab<|endoftext|>ab", allowed_special="all") == [256, 256, 258, 259, 256]
    assert encoding.encode_ordinary("a\n") == [97, 10]


def test_pairs_that_occur_once_are_not_merged():
    with pytest.raises(
        UserError, match=r"vocabulary of 261 from it: the largest possible is --data.tokenizer bpe:260\.$"
    ):
        ranks_of([BY_HAND], 261)
    with pytest.raises(UserError, match=r"the largest possible is --data.tokenizer bpe:257\.$"):
        ranks_of([], 1024)


@pytest.mark.parametrize("seed", range(3))
def test_texts_are_cut_and_merged_as_by_the_library_itself(seed, learnt):
    tokenizers = pytest.importorskip("tokenizers")
    # Words of the library's own pattern, which is GPT-2's; all of them shorter than what we cut.
    library = tokenizers.ByteLevelBPETokenizer(add_prefix_space=False)
    train, held_out = random_text(seed, 20_000), random_text(seed + 100, 20_000)
    library.train_from_iterator([train], vocab_size=699, min_frequency=2, show_progress=False)
    encoding, byte = learnt(train.encode(), 700), bpe.byte_of_character()
    # Short texts too, since how a text ends matters to the pattern.
    for text in [train, held_out, *(held_out[start : start + 9] for start in range(0, 9_000, 9))]:
        theirs = [bytes(byte[c] for c in token) for token in library.encode(text).tokens]
        assert [encoding.decode_single_token_bytes(i) for i in encoding.encode_ordinary(text)] == theirs
    assert len(encoding.encode_ordinary(held_out)) < len(held_out.encode()) / 1.5  # that is, there is much merged


def test_any_bytes_come_back(learnt):
    encoding = learnt(make_text(50_000), 300)
    for data in (make_text(20_000, seed=1), random.Random(0).randbytes(20_000), bytes(range(256)), b""):
        tokens = encode_bytes(encoding, data)
        assert encoding.decode_bytes(tokens.tolist()) == data
        assert encoding.eot_token not in tokens


def test_invalid_bytes_part_what_is_around_them():
    ranks = ranks_of([b"x\xffy x\xffy \xff\xfe\xff\xfe caf\xc3\xa9 caf\xc3\xa9 \xc3"], 262)
    assert b"xy" not in ranks
    assert not any(len(token) > 1 and (b"\xff" in token or "\ufffd".encode() in token) for token in ranks)
    assert " café".encode() in ranks


def test_pieces_are_not_joined():
    assert b"ab" not in ranks_of([b"a", b"b"] * 9 + [b"cd", b"cd"], 258)


def test_pieces_that_are_taken_in_parts_give_the_same(monkeypatch):
    at_once = ranks_of([make_text(30_000)], 300)
    monkeypatch.setattr(bpe, "_TEXT_BYTES", 1000)
    assert list(ranks_of([make_text(30_000)], 300).items()) == list(at_once.items())


def test_text_without_words_is_cut():
    # In one word of a million letters merging takes minutes; here a longer word shows by tokens longer than 256.
    assert list(ranks_of([b"ab" * 5_000], 265))[256:] == [b"ab" * (1 << doubled) for doubled in range(8)]
    with pytest.raises(UserError, match=r"bpe:265\.$"):
        ranks_of([b"ab" * 5_000], 266)


def learn_600() -> list[tuple[bytes, int]]:
    """Of a text with many pairs that occur equally often."""
    return list(bpe.train_ranks([random_text(seed, 5_000).encode() for seed in range(4)], 600).items())


def test_any_number_of_threads_learns_the_same(monkeypatch):
    pytest.importorskip("tokenizers")
    expected = learn_600()
    for threads in ("true", "false"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
        assert learn_600() == expected
    code = "from tests.data.tokens.test_bpe import learn_600; print(learn_600())"
    environment = os.environ | {"RAYON_NUM_THREADS": "5", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


def learn_in(pipe, text):
    pipe.send(len(bpe.train_ranks([text], 300)))


def test_processes_forked_afterwards_neither_warn_nor_hang(monkeypatch, start, capfd, never_waits):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    ranks_of([make_text(50_000)], 300)
    process, pipe = start(learn_in, make_text(50_000))
    assert pipe.recv() == 299
    process.join()
    assert "forked" not in capfd.readouterr().err  # as older versions of the library warn


def test_what_is_wrong_with_the_text_is_passed_on():
    def damaged():
        yield BY_HAND
        raise UserError("the corpus changed")

    with pytest.raises(UserError, match=r"^the corpus changed$"):
        ranks_of(damaged(), 260)


@pytest.mark.parametrize("vocabulary", [-1, 0, 256, MAX_IDS + 1])
def test_sizes_out_of_range_are_refused_before_the_text_is_read(vocabulary):
    def unread():
        raise AssertionError("was read")
        yield b""

    with pytest.raises(
        UserError, match=rf"'bpe:{vocabulary}' must be bpe:<vocabulary size> .* from 257 .* to 1048576\.$"
    ):
        bpe.train_ranks(unread(), vocabulary)


@pytest.mark.parametrize("size", ["", "x", "256", "-4096", "4096.0", "4_096", " 4096", "04096", "٤٠٩٦", "9" * 5000])
def test_specs_that_are_no_size_are_refused(size):
    for function in (bpe_size, vocabulary_size, load_tokenizer):
        with pytest.raises(
            UserError, match=f"^Tokenizer {re.escape(repr(f'bpe:{size}'))} must be bpe:<vocabulary size>"
        ):
            function(f"bpe:{size}")


def test_sizes_are_known_without_learning():
    assert vocabulary_size("bpe:4096") == bpe_size("bpe:4096") == 4096
    assert bpe_size("bpe:257") == 257
    assert bpe_size(f"bpe:{MAX_IDS}") == MAX_IDS
    assert bpe_size("bytes") is bpe_size("gpt2") is bpe_size("folder/bpe:4096") is None


def test_a_tokenizer_to_be_learnt_cannot_be_loaded():
    with pytest.raises(UserError, match=r"'bpe:4096' is learnt from a corpus .* beside the tokens of the corpus"):
        load_tokenizer("bpe:4096")


def test_names_of_tokenizers_include_what_can_be_learnt():
    with pytest.raises(UserError, match=r"'gtp2' is none of bytes, gpt2, .*, bpe:<vocabulary size>, nor a ranks file"):
        load_tokenizer("gtp2")


def test_a_missing_library_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"bpe:300 needs .*pip install tokenizers, .*-r requirements-data\.txt\.$"):
        bpe.train_ranks([BY_HAND], 300)


def test_ranks_survive_their_file(tmp_path):
    ranks = {bytes([byte]): byte for byte in range(256)} | {b" \n": 256, b"\xff\x00": 257, " é".encode(): 258}
    path = tmp_path / "new" / "ranks.tiktoken"
    bpe.write_ranks(dict(reversed(ranks.items())), path)
    assert load_tokenizer(str(path))._mergeable_ranks == ranks
    assert path.read_text().splitlines()[256:] == ["IAo= 256", "/wA= 257", "IMOp 258"]
    assert [file.name for file in path.parent.iterdir()] == ["ranks.tiktoken"]


def test_ranks_are_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "ranks.tiktoken"
    bpe.write_ranks({b"a": 0}, path)
    with pytest.raises(TypeError):
        bpe.write_ranks({b"b": 0, "no bytes": 1}, path)
    assert path.read_text() == "YQ== 0\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [1, 7, 10])
def test_samples_are_spread_evenly(size):
    pieces = [number.to_bytes(2, "big") * (size // 2) + b"x" * (size % 2) for number in range(1000)]
    for limit in (10 * size, 333 * size, 999 * size + size // 2):
        kept = list(bpe.sample(iter(pieces), 1000 * size, limit))
        assert len(kept) == limit // size
        assert list(bpe.sample(iter(pieces), 1000 * size, limit)) == kept
    if size > 1:
        places = [int.from_bytes(piece[:2], "big") for piece in bpe.sample(pieces, 1000 * size, 10 * size)]
        assert places == list(range(0, 1000, 100))


def test_samples_are_bounded_and_do_not_prefer_short_pieces():
    generator = random.Random(0)
    pieces = [bytes(generator.choice([10, 1000])) for _ in range(20_000)]
    total = sum(map(len, pieces))
    kept = list(bpe.sample(pieces, total, total // 10))
    assert total // 10 - 1000 <= sum(map(len, kept)) <= total // 10
    assert 0.4 < sum(len(piece) == 10 for piece in kept) / len(kept) < 0.6


def test_texts_that_fit_are_taken_whole():
    pieces = [bytes(size) for size in (5, 0, 100, 1)]
    assert list(bpe.sample(pieces, 106, 106)) == list(bpe.sample(pieces, 106)) == pieces


def test_few_tokens_of_shakespeare_pack_much_of_the_rest_of_him(shared, learnt):
    text = (shared / "data" / "tiny_shakespeare.txt").read_bytes()
    train, val = text[:1_000_000], text[1_000_000:]
    encoding = learnt(train, 1024)
    assert encoding.n_vocab == 1024
    assert 2.2 < len(val) / len(encode_bytes(encoding, val)) < 2.3
