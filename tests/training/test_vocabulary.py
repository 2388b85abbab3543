"""The byte-pair vocabulary, read by open_clip's own tokenizer."""

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from salf_training.scenes import CONCEPTS
from salf_training.vocabulary import BASE_TOKENS, learn_merges, write_merges

TEXTS = ("a red roof", "a red sail", "a sailing boat with a red sail", "the red lighthouse's light")


def tokenizer(tmp_path, texts, count):
    merges = learn_merges(texts, count=count)
    write_merges(tmp_path / "merges.txt.gz", merges)
    return SimpleTokenizer(str(tmp_path / "merges.txt.gz"), context_length=32), merges


def test_open_clip_reads_exactly_the_merges_that_were_written(tmp_path):
    read, merges = tokenizer(tmp_path, TEXTS, 20)
    assert list(read.bpe_ranks) == merges
    assert len(merges) == 20
    assert read.eot_token_id == BASE_TOKENS + len(merges) - 1


def test_every_token_of_any_text_lies_inside_the_vocabulary(tmp_path):
    read, merges = tokenizer(tmp_path, [*CONCEPTS, *TEXTS], 600)
    size = BASE_TOKENS + len(merges)
    for text in (*CONCEPTS, *TEXTS, "unseen wörds 123 !?", "日本語", "", "x" * 200):
        tokens = read([text])
        assert tokens.min() >= 0
        assert tokens.max() == size - 1, "the end of text is the last token, by which the text is pooled"


def test_words_of_the_concepts_are_short(tmp_path):
    read, _ = tokenizer(tmp_path, CONCEPTS, 600)
    lengths = {word: len(read.encode(word)) for concept in CONCEPTS for word in concept.split()}
    assert sum(lengths.values()) / len(lengths) < 2
    bare = SimpleTokenizer(str(_empty(tmp_path)), context_length=32)
    assert sum(len(bare.encode(word)) for word in lengths) > 2.5 * sum(lengths.values()), "merges must shorten"


def _empty(tmp_path):
    write_merges(tmp_path / "none.txt.gz", [])
    return tmp_path / "none.txt.gz"


def test_with_enough_merges_every_word_is_one_token_whatever_its_letters(tmp_path):
    words = ("lighthouse", "café", "straße", "ветряк", "灯台")
    read, merges = tokenizer(tmp_path, words, 1000)
    for word in words:
        assert len(read.encode(word)) == 1, word
    assert read.decode(read.encode("café")).strip() == "café"
    assert len(merges) < 1000, "learning ends when every word is whole"


def test_the_most_frequent_pair_comes_first_and_ties_go_by_alphabet():
    assert learn_merges(["xy xy ab"], count=1) == [("x", "y</w>")]
    assert learn_merges(["xy ab"], count=2) == [("a", "b</w>"), ("x", "y</w>")]


@pytest.mark.parametrize("texts", [[], ["", "123 !"], ["a"]])
def test_texts_without_pairs_give_no_merges(texts):
    assert learn_merges(texts, count=10) == []


def test_equal_merges_give_equal_bytes_and_no_trailing_line(tmp_path):
    merges = learn_merges(TEXTS, count=20)
    for name in ("a", "b"):
        write_merges(tmp_path / f"{name}.gz", merges)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert len(gzip.decompress((tmp_path / "a.gz").read_bytes()).decode().split("\n")) == 21


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=6), min_size=1, max_size=5))
def test_merges_never_hold_what_would_break_the_file(words):
    for pair in learn_merges(words, count=30):
        assert len(" ".join(pair).split()) == 2
