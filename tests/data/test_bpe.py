"""Tokenizers learnt from a text."""

import random
import sys
from pathlib import Path

import pytest

from gpt_lightning.data.bpe import byte_of_character, sample, train_ranks, write_ranks
from gpt_lightning.data.tokenizer import encode_bytes, load_tokenizer, vocabulary_size
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text


@pytest.fixture
def learn(tmp_path):
    pytest.importorskip("tokenizers")

    def learn_from(text: bytes, vocabulary: int):
        write_ranks(train_ranks([text], vocabulary), tmp_path / "learnt.tiktoken")
        return load_tokenizer(str(tmp_path / "learnt.tiktoken"))

    return learn_from


def test_merges_come_in_the_order_of_how_often_their_pairs_do(learn):
    """`ab` occurs 9 times, then `abc` 5 times; a space before a word belongs to it and no merge crosses two words."""
    ranks = train_ranks([b"abc abc abc abc abc abd abd abd abd"], 261)
    assert [ranks[bytes([byte])] for byte in range(256)] == list(range(256))
    merged = [token for token, rank in ranks.items() if rank >= 256]
    assert merged[0] == b"ab"
    assert merged[1] == b" ab"
    assert set(merged[2:]) == {b" abc", b" abd"}
    assert sorted(ranks.values()) == list(range(260))


@pytest.mark.parametrize("vocabulary", [258, 300, 700])
def test_the_vocabulary_is_as_large_as_asked_for_and_ends_with_the_end_of_text(learn, vocabulary):
    encoding = (
        learn(make_text(50_000).replace(b"42", b"words of many kinds and more"), vocabulary)
        if vocabulary < 300
        else None
    )
    if encoding is None:
        text = " ".join(random.Random(i).choice(["al", "be", "ga"]) * (i % 7 + 1) + str(i % 500) for i in range(9000))
        encoding = learn(text.encode(), vocabulary)
    assert (encoding.n_vocab, encoding.eot_token) == (vocabulary, vocabulary - 1)
    assert all(encoding.decode_single_token_bytes(token) for token in range(vocabulary))


def test_any_bytes_come_back(learn):
    encoding = learn(make_text(20_000), 270)
    data = make_text(5_000, seed=1) + bytes(range(256))
    assert encoding.decode_bytes(encode_bytes(encoding, data).tolist()) == data


def test_text_is_cut_as_the_library_cuts_it(learn):
    """The same merges in the library itself, asked to encode text that it has not seen."""
    tokenizers = pytest.importorskip("tokenizers")
    words = [
        "the",
        "then",
        "there",
        "other",
        "mother",
        "don't",
        "'ll",
        "42",
        "1234",
        "é",
        "漢字",
        "...",
        "?!",
        "\n\n",
        "   ",
    ]
    generator = random.Random(0)
    text = " ".join(generator.choice(words) for _ in range(20_000))
    encoding = learn(text.encode(), 300)
    to_character = {byte: character for character, byte in byte_of_character().items()}
    spelt = {rank: "".join(to_character[b] for b in encoding.decode_single_token_bytes(rank)) for rank in range(299)}
    ids = {token: rank for rank, token in spelt.items()}
    merges = []
    for rank in range(256, 299):  # the pair that a token is made of: what it is cut to without its own merge
        older = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
        merges.append(tuple(older.encode(spelt[rank]).tokens))
    assert {len(pair) for pair in merges} == {2}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    unseen = " ".join(generator.choice([*words, "unseen", "Mother", "\t", "5é"]) for _ in range(5_000))
    assert encoding.encode_ordinary(unseen) == library.encode(unseen).ids


def test_learning_twice_gives_the_same(learn, monkeypatch):
    text = make_text(100_000)
    first = train_ranks([text], 280)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    assert list(train_ranks([text[:50_000], text[50_000:]], 270)) == list(first)[:269] or text[49_999:50_001].isalnum()
    assert train_ranks([text], 280) == first


def test_too_little_text_says_how_much_can_be_learnt(learn):
    with pytest.raises(
        UserError, match=r"too few repeated words to learn 1,000 tokens from: set --data.tokenizer bpe:"
    ) as error:
        train_ranks([b"abc abd " * 5], 1000)
    most = int(str(error.value).split("bpe:")[1].split()[0])
    assert len(train_ranks([b"abc abd " * 5], most)) == most - 1


def test_the_sample_is_spread_evenly_and_no_larger_than_asked():
    pieces = [bytes([n % 256]) * 10 for n in range(1000)]
    assert list(sample(iter(pieces), 10_000, 10_000)) == pieces
    few = list(sample(iter(pieces), 10_000, 1_000))
    places = [pieces.index(piece) for piece in few[:25]]
    assert len(few) == 100
    assert places == list(range(9, 256, 10))


@pytest.mark.parametrize("spec", ["bpe:", "bpe:many", "bpe:257", "bpe:-5", "bpe:1e4", "bpe:99999999999", "bpe:٣٠٠"])
def test_impossible_sizes_are_one_sentence(spec):
    with pytest.raises(UserError, match="must be bpe: and a vocabulary size from 258"):
        vocabulary_size(spec)


def test_a_size_is_known_before_anything_is_learnt():
    assert vocabulary_size("bpe:4096") == 4096
    with pytest.raises(UserError, match=r"tokenizer bpe:4096 is learnt from a corpus: here name the ranks\.tiktoken"):
        load_tokenizer("bpe:4096")


def test_without_the_library_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"Hugging Face's tokenizers: pip install -r requirements-data\.txt"):
        train_ranks([b"text"], 300)


def test_shakespeare_packs_better_than_gpt2_at_a_quarter_of_its_vocabulary(learn, shared, gpt2):
    text = Path(shared / "data" / "tiny_shakespeare.txt").read_bytes()
    learnt = len(encode_bytes(learn(text, 12_000), text))
    assert learnt < len(encode_bytes(gpt2, text))
