"""Tokenizers: any bytes survive, and a specification that means none is refused."""

import base64
import io
import os
import random

import pytest
import torch

from gpt_lightning.data import tokenizer
from gpt_lightning.errors import UserError
from tests.data.conftest import make_text

HARD_INPUTS = {
    "every byte": bytes(range(256)),
    "random bytes": random.Random(0).randbytes(20_000),
    "words": make_text(20_000),
    "truncated character": "caf\u00e9".encode()[:-1],
    "encoded surrogate": b"a\xed\xa0\x80b",
    "special token": b"x<|endoftext|>y",
    "nothing": b"",
}


EVERY_BYTE = "".join(f"{base64.b64encode(bytes([byte])).decode()} {byte}\n" for byte in range(256))


@pytest.mark.parametrize("name", HARD_INPUTS)
@pytest.mark.parametrize("which", ["bytes", "bpe", "gpt2"])
def test_decoding_gives_back_any_bytes(name, which, request):
    encoding = tokenizer.load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    tokens = tokenizer.encode_bytes(encoding, HARD_INPUTS[name])
    assert encoding.decode_bytes(tokens.tolist()) == HARD_INPUTS[name]
    assert not any(encoding.is_special_token(token) for token in tokens.tolist())
    assert int(tokenizer.token_byte_lengths(encoding)[tokens.astype("int64")].sum()) == len(HARD_INPUTS[name])


def test_valid_text_gets_the_tokens_of_tiktoken(bpe):
    text = "the thing is in the caf\u00e9, isn't it?  \n\n <|endoftext|> 漢字"
    assert tokenizer.encode_bytes(bpe, text.encode()).tolist() == bpe.encode_ordinary(text)


def test_white_space_that_overflows_tiktokens_regex_is_encoded(bpe):
    data = b"a" + b" " * 1_500_000 + b"b"
    with pytest.raises(ValueError, match="stack"):
        bpe.encode_to_numpy(data.decode())
    assert bpe.decode_bytes(tokenizer.encode_bytes(bpe, data).tolist()) == data


def test_bytes_are_their_own_tokens():
    encoding = tokenizer.load_tokenizer("bytes")
    assert encoding.n_vocab == tokenizer.vocabulary_size("bytes") == 256
    assert encoding.encode("é") == list("é".encode())
    assert not encoding.special_tokens_set


def test_sizes_of_vocabularies(ranks_file, bpe):
    assert tokenizer.vocabulary_size(str(ranks_file)) == bpe.n_vocab == 256 + 13 + 1
    assert tokenizer.vocabulary_size("gpt2") == 50257


def test_gpt2_is_as_large_as_we_say(gpt2):
    assert gpt2.n_vocab == tokenizer.vocabulary_size("gpt2")
    assert gpt2._pat_str == tokenizer.GPT2_PATTERN


def test_special_tokens_stand_for_no_bytes(bpe):
    lengths = tokenizer.token_byte_lengths(bpe)
    assert lengths.dtype == torch.int64
    assert lengths.shape == (bpe.n_vocab,)
    assert lengths[bpe.eot_token] == 0
    assert lengths[bpe.encode_single_token(" the")] == 4


@pytest.mark.parametrize("which", ["bytes", "bpe", "gpt2"])
def test_state_survives_a_checkpoint(which, request):
    encoding = tokenizer.load_tokenizer("bytes") if which == "bytes" else request.getfixturevalue(which)
    file = io.BytesIO()
    torch.save(tokenizer.tokenizer_state(encoding), file)
    file.seek(0)
    again = tokenizer.tokenizer_from_state(torch.load(file, weights_only=True))
    data = HARD_INPUTS["words"]
    assert (again.name, again.n_vocab) == (encoding.name, encoding.n_vocab)
    assert again.special_tokens_set == encoding.special_tokens_set
    assert (tokenizer.encode_bytes(again, data) == tokenizer.encode_bytes(encoding, data)).all()


def test_unused_ids_are_left_out_of_the_state(ranks_file, tmp_path):
    path = tmp_path / "gap.tiktoken"
    path.write_text(ranks_file.read_text() + f"{base64.b64encode(b'after').decode()} 300\n")
    encoding = tokenizer.load_tokenizer(str(path))
    assert encoding.n_vocab == tokenizer.vocabulary_size(str(path)) == 302
    assert tokenizer.tokenizer_from_state(tokenizer.tokenizer_state(encoding)).encode("after") == [300]
    assert tokenizer.token_byte_lengths(encoding)[290] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not ranks at all\n", "is not a file of tiktoken ranks"),
        ("YQ== 0\nY!g== 1\n", "is not a file of tiktoken ranks"),
        ("YQ== one\n", "is not a file of tiktoken ranks"),
        ("YQ== 0\n", "every single byte"),
        ("", "every single byte"),
        ("YQ== " + "9" * 5000, "is not a file of tiktoken ranks"),
        (EVERY_BYTE + "YWI= -1\n", "must give ranks from 0 to 1,048,575"),
        (EVERY_BYTE + "YWI= 1048576\n", "must give ranks from 0 to 1,048,575"),
        (EVERY_BYTE + "YWI= 255\n", "no rank twice"),
        (EVERY_BYTE + f"{base64.b64encode(b'<|endoftext|>').decode()} 256\n", "must not give <|endoftext|> a rank"),
    ],
)
def test_a_bad_ranks_file_is_named(tmp_path, text, message):
    path = tmp_path / "bad.tiktoken"
    path.write_text(text)
    with pytest.raises(UserError, match=f"bad.tiktoken.*{message}"):
        tokenizer.load_tokenizer(str(path))


def test_files_that_may_never_end_are_not_read_for_ranks(tmp_path, never_waits):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}' is not a file of tiktoken ranks.*no regular file"):
            tokenizer.load_tokenizer(str(path))
    with (tmp_path / "corpus.txt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match=r"not a file of tiktoken ranks.*larger than 67,108,864 bytes"):
        tokenizer.load_tokenizer(str(tmp_path / "corpus.txt"))


@pytest.mark.parametrize("spec", ["~nobody_of_this_name/x", "x" * 300])
def test_ranks_files_that_cannot_be_are_refused(spec):
    with pytest.raises(UserError, match="is none of bytes, gpt2, cl100k_base, o200k_base"):
        tokenizer.load_tokenizer(spec)


def test_names_of_tokenizers_are_short_in_any_script(ranks_file, tmp_path):
    path = tmp_path / f"{'漢' * 80}.tiktoken"
    path.write_text(ranks_file.read_text())
    assert tokenizer.load_tokenizer(str(path)).name == "漢" * 20


def test_a_misspelt_tokenizer_is_named():
    with pytest.raises(UserError, match="'gtp2' is none of bytes, gpt2"):
        tokenizer.vocabulary_size("gtp2")


def test_gpt2_without_a_network_names_the_way_out(monkeypatch):
    def no_network(name):
        raise OSError("no route to host")

    monkeypatch.setattr(tokenizer.tiktoken, "get_encoding", no_network)
    with pytest.raises(UserError, match=r"no route to host.*TIKTOKEN_CACHE_DIR"):
        tokenizer.load_tokenizer("gpt2")
