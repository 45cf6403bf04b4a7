"""Make text from files safe for HTML and readers: escaped, bounded, without misleading characters."""

from __future__ import annotations

import html
import math
import unicodedata

MAX_TEXT_LENGTH = 2000
"""Maximum number of characters shown of one value from a file."""
REORDERING_CHARACTERS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the order in which text is displayed."""


def clean(text: object, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return text without control characters, reordering characters and lone surrogates, cut to a length.

    >>> clean("a\\x00b"), clean("abcdef", 3)
    ('a\\ufffdb', 'abc… (3 more characters)')
    """
    whole = str(text)
    shown = "".join(
        "\ufffd" if c in REORDERING_CHARACTERS or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") else c
        for c in whole[:limit]
    )
    return shown if len(whole) <= limit else f"{shown}… ({len(whole) - limit} more characters)"


def escape(text: object, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return `clean` text as HTML, for elements and quoted attributes.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(clean(text, limit), quote=True)


def number(value: float, digits: int = 4) -> str:
    """Return a number in a few significant digits.

    >>> number(0.5), number(-1.234567e-7), number(65536.0), number(float("nan"))
    ('0.5', '−1.235e-7', '65540', 'not a number')
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value + 0.0:.{digits}g}"  # + 0: no negative zero
    mantissa, _, exponent = text.partition("e")
    if exponent:
        power = int(exponent)
        text = str(round(value, digits - 1 - power)).removesuffix(".0") if 0 <= power < 7 else f"{mantissa}e{power}"
    return text.replace("-", "−", 1) if text.startswith("-") else text
