"""Sizes of domains -> random text in raw folders, and the corpus of its bytes."""

import random
import string

import mixstream

SEQ_LEN = 16


def random_corpus(folder, sizes, *, seed, letters=string.ascii_letters):
    """Converts one file of so many letters a domain, folder / "raw" to folder / "corpus"."""
    chosen = random.Random(seed)
    for name, size in sizes.items():
        (folder / "raw" / name).mkdir(parents=True)
        text = "".join(chosen.choice(letters) for _ in range(size))
        (folder / "raw" / name / "0.txt").write_text(text)
    mixstream.convert(folder / "raw", folder / "corpus", tokenizer="bytes", seq_len=SEQ_LEN)
    return folder / "corpus"
