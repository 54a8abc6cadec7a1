"""A training run as far as data goes: python steered_run.py CORPUS LOG"""

from __future__ import annotations

import sys
import time

import numpy as np

import mixstream


def main(corpus_path, log):
    corpus = mixstream.open_corpus(corpus_path)
    num_domains = len(corpus.domains)
    loader = mixstream.Loader(
        corpus,
        np.ones(num_domains),
        batch_size=8,
        seed=5,
        run_log=log,
        steerable=True,
    )
    losses = np.linspace(9.0, 11.0, num_domains)
    for batch in loader:
        seen = np.bincount(batch["domain_ids"].numpy(), minlength=num_domains)
        losses -= 0.02 * (losses - 2.0) * seen / 8
        if loader.step % 5 == 0:
            loader.log_signal("loss", losses, unit="nats per token")
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
