"""Small tokenizers of every kind, trained on text that is at hand: no network."""

import base64
import functools
import io
import random
import re

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers

from mixstream.corpus.tokenizers.patterns import LLAMA3, QWEN2

END = "<|endoftext|>"
_SYLLABLES = re.findall(
    r"\S+",
    """the of ing tion er on at en es .com 's '' (s) ?! }} // 12 345
    été naïve größe слово и не 漢字 한국""",
)


@functools.cache
def training_lines():
    """Lines in many scripts, with punctuation, numbers, code and runs of white space."""
    draw = random.Random(3)
    joints = [" ", "", "\n", "  ", "\t", ", ", "."]
    return [
        "".join(draw.choice(_SYLLABLES) + draw.choice(joints) for _ in range(12))
        for _ in range(3000)
    ]


def byte_pairs(pre_tokenizer, *, specials=(END,), normalizer=None, vocab_size=900):
    """A byte-level BPE of the tokenizers library."""
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizer
    model.decoder = decoders.ByteLevel()
    if normalizer is not None:
        model.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator(training_lines(), trainer)
    return model


def split_by(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def metaspace():
    """As Llama 2's: byte fallback, spaces as U+2581, one before each text."""
    spelled = [f"<0x{byte:02X}>" for byte in range(256)]
    model = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    model.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    model.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", "<s>", "</s>", *spelled],
        show_progress=False,
    )
    model.train_from_iterator(training_lines(), trainer)
    return model


@functools.cache
def json_texts():
    """{kind: text of a tokenizer.json}."""
    level = pre_tokenizers.ByteLevel
    begin_and_end = ("<|begin_of_text|>", "<|end_of_text|>")
    with_tools = byte_pairs(split_by(QWEN2), normalizer=normalizers.NFC())
    with_tools.add_tokens(["<tool>", "<think>"])
    return {
        "gpt2": byte_pairs(level(add_prefix_space=False)).to_str(),
        "prefix": byte_pairs(level(add_prefix_space=True)).to_str(),
        "llama3": byte_pairs(split_by(LLAMA3), specials=begin_and_end).to_str(),
        "qwen": with_tools.to_str(),
        "metaspace": metaspace().to_str(),
    }


@functools.cache
def rank_lines():
    """A file of ranks: the tokens of the llama3 kind, by their ids."""
    vocabulary = tokenizers.Tokenizer.from_str(json_texts()["llama3"]).get_vocab()
    visible = [b for b in range(256) if b in {*range(33, 127), *range(161, 173), *range(174, 256)}]
    hidden = [b for b in range(256) if b not in visible]
    byte_of = {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}
    tokens = [
        bytes(byte_of[character] for character in token)
        for token, _ in sorted(vocabulary.items(), key=lambda item: item[1])
        if not token.startswith("<|")
    ]
    return b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens))


@functools.cache
def sentence_model(model_type="bpe"):
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_lines()),
        model_writer=written,
        vocab_size=500,
        model_type=model_type,
        byte_fallback=True,
        minloglevel=2,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )
    return written.getvalue()


def written(folder, kind):
    """The path of a tokenizer of some kind, written into a folder."""
    if kind in json_texts():
        path = folder / f"{kind}.json"
        path.write_text(json_texts()[kind], encoding="utf-8")
    elif kind in ("bpe", "unigram"):
        path = folder / f"{kind}.model"
        path.write_bytes(sentence_model(kind))
    else:
        path = folder / f"small.{kind}.tiktoken"
        path.write_bytes(rank_lines())
    return path
