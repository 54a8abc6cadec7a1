"""Documents of three topics in words that they do not share, as raw files."""

import gzip
import json
import random
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

TOPICS = {
    "sea": "wave tide harbour sailor anchor gull salt island reef storm",
    "law": "court judge clause statute appeal verdict witness oath plea bail",
    "poem": "床前明月光疑是地上霜举头望低思故乡",
}


def texts_of(topic: str, number: int, seed: int = 0) -> list[str]:
    """Documents of some twenty words of a topic."""
    words = TOPICS[topic].split() if topic != "poem" else list(TOPICS[topic])
    letters = random.Random(f"{topic} {seed}")
    space = "" if topic == "poem" else " "
    return [f"{space.join(letters.choices(words, k=20))}{space}{i}" for i in range(number)]


@pytest.fixture
def raw(tmp_path) -> Path:
    """90 documents: two kinds of files, their folders not the topics; two bad ones; a licence."""
    texts = [text for topic in TOPICS for text in texts_of(topic, 30)]
    random.Random(5).shuffle(texts)
    folder = tmp_path / "raw"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "a" / "0.jsonl").write_text(
        "\n".join([*lines[:40], "no json", '{"text": ""}']) + "\n"
    )
    (folder / "b" / "0.jsonl.gz").write_bytes(gzip.compress("\n".join(lines[40:89]).encode()))
    (folder / "b" / "1.txt").write_text(texts[89])
    (folder / "LICENCE.md").write_text("all rights reversed")
    return folder
