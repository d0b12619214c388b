"""Captions through the tokenizer and the text path: vocabulary, coverage, sentences a second.

    python benchmarks/captions.py --captions captions.jsonl --word-vectors glove.txt

The file holds a JSON object a line with "captions", a list of sentences. The text CNN has the
paper's size and random weights; its speed is of the forward pass, one placement a sentence.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from dualpath.data.tokenizer import Tokenizer, Vocabulary, count_words, modern_vocabulary
from dualpath.data.word_vectors import read_word_vectors
from dualpath.models.text.cnn import TextCNN

WORDS, BATCH, BATCHES = 32, 256, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--word-vectors", type=Path, required=True)
    options = parser.parse_args()
    with options.captions.open(encoding="utf-8") as file:
        captions = [caption for line in file for caption in json.loads(line)["captions"]]
    table = Table(title=f"{len(captions):,} captions, {torch.get_num_threads()} threads")
    for column in (
        "vocabulary",
        "different words",
        "kept",
        "of the words in captions",
        "longer than 32",
        "tokenizer, sentences/s",
        "text CNN, sentences/s",
    ):
        table.add_column(column, justify="right")
    modes: tuple[Vocabulary, ...] = ("paper", "modern")
    for mode in modes:
        counts = count_words(captions, mode)
        words = (
            list(read_word_vectors(options.word_vectors, counts.keys()))
            if mode == "paper"
            else modern_vocabulary(counts, 2)
        )
        tokenizer = Tokenizer(words, mode, WORDS)
        begun = time.perf_counter()
        token_ids = tokenizer.encode(captions)
        encoding = time.perf_counter() - begun
        longer = sum(len(tokenizer.split(caption)) > WORDS for caption in captions)
        encoder = TextCNN(
            tokenizer.num_embeddings,
            dim=2048,
            max_words=WORDS,
            padding="unmasked" if mode == "paper" else "masked",
        ).eval()
        seconds = []
        with torch.no_grad():
            for start in range(0, BATCH * BATCHES, BATCH):
                batch = torch.from_numpy(token_ids[start : start + BATCH])
                batch = batch[:, : int((batch != 0).sum(dim=1).max())]
                begun = time.perf_counter()
                encoder(encoder.place_at_random(batch))
                seconds.append(time.perf_counter() - begun)
        table.add_row(
            mode,
            f"{len(counts):,}",
            f"{len(words):,}",
            f"{100 * sum(counts[word] for word in words) / counts.total():.1f} %",
            f"{longer:,}",
            f"{len(captions) / encoding:,.0f}",
            f"{BATCH / statistics.median(seconds):,.0f}",
        )
    Console(soft_wrap=True).print(table)


if __name__ == "__main__":
    main()
