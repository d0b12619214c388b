"""Measure the tokenizer and the text CNN on a file of captions.

    python benchmarks/captions.py --captions captions.jsonl --word-vectors glove.txt

Prints the size of the vocabulary, the words that it covers, and sentences per second. The file of
captions has one JSON object per line, with a list of sentences under the key "captions". The text
CNN has the paper's size and random weights. Its speed is that of the forward pass at one position
per sentence.
"""

import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from common import command_line
from dualpath.data.captions import read_captions
from dualpath.data.tokenizer import Tokenizer, WordVocabulary, count_words, modern_vocabulary
from dualpath.data.word_vectors import read_word_vectors
from dualpath.models.text.cnn import TextCNN
from dualpath.types import IntArray

WORDS, BATCH, BATCHES = 32, 256, 5
MODES: tuple[WordVocabulary, ...] = ("paper", "modern")
COLUMNS = (
    "vocabulary",
    "different words",
    "in the vocabulary",
    "of all words in captions",
    f"captions longer than {WORDS}",
    "tokenizer, sentences per second",
    "text CNN, sentences per second",
)


def measure(mode: WordVocabulary, captions: list[str], word_vectors: Path) -> list[str]:
    """Return the row of one mode of the tokenizer."""
    counts = count_words(captions, mode)
    words = (
        list(read_word_vectors(word_vectors, counts.keys()))
        if mode == "paper"
        else modern_vocabulary(counts, 2)
    )
    tokenizer = Tokenizer(words, mode, WORDS)
    start = time.perf_counter()
    token_ids = tokenizer.encode(captions)
    encoding = time.perf_counter() - start
    longer = sum(len(tokenizer.split(caption)) > WORDS for caption in captions)
    return [
        mode,
        f"{len(counts):,}",
        f"{len(words):,}",
        f"{100 * sum(counts[word] for word in words) / counts.total():.1f} %",
        f"{longer:,}",
        f"{len(captions) / encoding:,.0f}",
        f"{embedding_speed(mode, tokenizer, token_ids):,.0f}",
    ]


def embedding_speed(mode: WordVocabulary, tokenizer: Tokenizer, token_ids: IntArray) -> float:
    """Return the sentences per second of the text CNN, the median over some batches."""
    encoder = TextCNN(
        tokenizer.num_embeddings,
        dim=2048,
        max_words=WORDS,
        padding="unmasked" if mode == "paper" else "masked",
    ).eval()
    speeds = []
    with torch.no_grad():
        for start in range(0, min(len(token_ids), BATCH * BATCHES), BATCH):
            batch = torch.from_numpy(token_ids[start : start + BATCH])
            batch = batch[:, : int((batch != 0).sum(dim=1).max())]
            begin = time.perf_counter()
            encoder(encoder.place_at_random(batch))
            speeds.append(len(batch) / (time.perf_counter() - begin))
    return statistics.median(speeds)


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--captions", type=Path, required=True, help="JSON Lines")
    parser.add_argument(
        "--word-vectors", type=Path, required=True, help="word2vec, GloVe or fastText format"
    )
    options = parser.parse_args()
    captions = read_captions(options.captions)
    table = Table(title=f"{len(captions):,} captions, {torch.get_num_threads()} threads")
    for column in COLUMNS:
        table.add_column(column, justify="right")
    for mode in MODES:
        table.add_row(*measure(mode, captions, options.word_vectors))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
