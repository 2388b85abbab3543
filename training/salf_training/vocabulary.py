"""A small byte-pair vocabulary learnt from given texts, in the file format that open_clip's tokenizer reads.

open_clip's own vocabulary of 49,408 tokens makes a small encoder 47 MB; a few hundred merges are enough for a small
world.
"""

import gzip
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex
from open_clip.tokenizer import bytes_to_unicode

#: Tokens that are there before any merge: 256 bytes, the same at a word's end, start and end of text.
BASE_TOKENS = 256 * 2 + 2
_WORD = regex.compile(r"[\p{L}]+")
_WORD_END = "</w>"


def learn_merges(texts: Iterable[str], *, count: int) -> list[tuple[str, str]]:
    """Learn byte-pair merges (Sennrich et al. 2016), most frequent pair first, ties in alphabetical order.

    Args:
        texts: what the encoder will read; lower-cased, words of letters only.
        count: how many merges at most.

    Returns:
        Pairs in the order they are applied.
    """
    counts = Counter(word for text in texts for word in _WORD.findall(text.lower()))
    words = {word: _symbols(word) for word in counts}
    merges: list[tuple[str, str]] = []
    for _ in range(count):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {word: _apply(symbols, best) for word, symbols in words.items()}
    return merges


def write_merges(path: Path, merges: Iterable[tuple[str, str]]) -> None:
    """Write a gzipped merges file; equal merges give equal bytes."""
    # The first line is a header that the tokenizer skips; no newline at the end, it would read as one more merge.
    text = "\n".join(["#version: salf", *(" ".join(pair) for pair in merges)])
    with path.open("wb") as raw, gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as file:
        file.write(text.encode())


def _symbols(word: str) -> list[str]:
    """The word's UTF-8 bytes, each as the character that open_clip's tokenizer writes for it."""
    character = bytes_to_unicode()
    symbols = [character[byte] for byte in word.encode()]
    return [*symbols[:-1], symbols[-1] + _WORD_END]


def _apply(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
