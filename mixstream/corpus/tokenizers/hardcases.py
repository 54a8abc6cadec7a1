"""Texts on which tokenizer libraries tend to differ, each with a name for messages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["hard_cases"]

_NEW_IN_17 = "\u088f\u0c5c\u0cdc\ua7ce\ua7d2\U00010940\U00010ec5\U00011db0\U00011de0\U00016ea0"
_NEWER = _NEW_IN_17 + "\U00018d09\U00018d80\U0001e6c0\U0002b73a\U0002cea2\U000323b0"
_NEW_IN_16 = "\U00010d40\U00011bc0\U0001ccf0\ua7da\U000105c0\u1c89"
_MARKS = "\u0897\u1ac1\u1acf\U00010efd\U0001e4ec\U0001e5ee"

_TEXTS: dict[str, str] = {
    "empty": "",
    "one space": " ",
    "spaces": "  a   b    c     \t \t\t  ",
    "ends in white space": "end \n \n",
    "begins with white space": "\n\n  begin",
    "carriage returns": "a\rb\r\nc\n\rd\r\r\n\n\r ",
    "other white space": "a\u00a0b\u3000c\u2028d\u0085e\u1680f\u200bg\ufeffh\x1ci\x0b\x0cj",
    "NUL and controls": "a\x00b\x00\x00 \x00c\x01\x02\x7f\x1b[0m\x80\x9f",
    "contractions": "I'm you'RE he'S they'Ve it'll I'D can't 'tis o'clock x'\u017f y\u2019s 'lx",
    "numbers": "1 12 123 1234 12345 1,234.5 0x1F 1e-9",
    "other numbers": "\u0661\u0662\u0663\u0664 1\u00b22 \u2167\u2460 \U0001d7d8\U0001d7d8",
    "punctuation": "!!!??? ... --- *** ((({{{[[[]]]}}}))) <|><|| #a @b $c %d &e _f_ `g` ~h",
    "punctuation before newlines": "a.\n\nb!\r\n c) \n/\n//\n",
    "combining marks": "e\u0301 \u0301 a\u0323\u0307o\u0307\u0323 q\u0300\u0301\u0302",
    "conjoining letters": "\u1100\u1161\u11a8 \uac00\u11a8 \u1100\u1161 \u1161",
    "singletons and composites": "\u212b\u2126\u1e69\uac01\ufb01\u0344\u0958\u2adc \u00c5\u00e9",
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f\U0001f44d\U0001f3fd!",
    "flags": "\U0001f1e9\U0001f1eaa\U0001f1e9\U0001f1ea\U0001f1e9",
    "mixed scripts": "aбγ漢字かな한국어عربى עברית हिन्दी ไทย ქართული አማርኛ\u00dfI\u0307\u0130",
    "cases": "camelCaseHTTPServer ABCdef ǅaǅ ʰa ªº İıſ \u01c5\u10d0\u1c90",
    "private and unassigned": "\ue000a\U000f0000b\U0010ffffc\ufdd0d\u0378e\uffffx",
    "characters of Unicode 17": " ".join(f"{new}(the {new}.com 1{new}2" for new in _NEWER),
    "characters of Unicode 16": " ".join(f"{new}(the {new}.com 1{new}2" for new in _NEW_IN_16),
    "new marks": " ".join(f"a\u0323{mark}\u0301\u0323" for mark in _MARKS),
    "code": "def f(x):\n\treturn {'a': [1, 2.5e3], \"b\": x**2}  # why?\n\n\n    pass\r\n",
    "address": "https://example.org/a%20b?q=1&r=%E2%82%AC#top me@example.org C:\\dir\\new.txt",
}


def hard_cases(added: Sequence[str]) -> dict[str, bytes]:
    """The texts of all back ends' proof.

    Args:
        added: special and added tokens of the tokenizer as they are spelled.

    Returns:
        {name: text in UTF-8}. About 0.8 MB: half a second for the slowest library.
    """
    texts = dict(_TEXTS)
    for token in added[:100]:
        texts[f"the token {token!r} as text"] = (
            f"{token}{token}a{token}b {token} {token}\u0301 \n{token}\n{token.upper()} {token[:-1]}"
        )
    texts.update(_long_runs())
    return {name: text.encode("utf-8") for name, text in texts.items()}


def _long_runs() -> dict[str, str]:
    """Long stretches without a space; the letters follow no short period."""
    squares = np.arange(100_000, dtype=np.int64) ** 2 % 9973
    letters = (97 + squares % 26).astype(np.uint8)
    digits = (48 + squares[:20_000] % 10).astype(np.uint8)
    ideographs = (0x4E00 + squares[:10_000]).astype("<u2")
    return {
        "a word of 100,000 letters": letters.tobytes().decode("ascii"),
        "one letter 20,000 times": "a" * 20_000,
        "20,000 digits": digits.tobytes().decode("ascii"),
        "20,000 spaces": " " * 20_000 + "x",
        "20,000 newlines": "\n" * 20_000,
        "10,000 ideographs": ideographs.tobytes().decode("utf-16-le"),
        "5,000 families": "\U0001f469\u200d\U0001f467" * 5_000,
        "20,000 marks on a letter": "e" + "\u0301\u0323" * 10_000,
    }
