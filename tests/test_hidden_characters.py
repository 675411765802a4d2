"""Hidden characters in a model's text are shown as marks wherever it is displayed; legitimate ones stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.notebook.view.hidden import clean, clean_and_count, plain_text
from nbllm.notebook.view.markdown import code_html, reasoning_html, to_html

HIDDEN = [
    *"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2065",
    *"\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\u3164\ufe00\ufe01\ufe0d\ufe0e\ufe0f\ufeff\uffa0\ufff0\ufff8\ufff9\ufffa\ufffb\ue000\uf8ff\ufdd0\u0378\uffff",
    *"\U0001d173\U0001d17a\U000e0000\U000e0001\U000e0020\U000e0041\U000e007f\U000e0080\U000e0100\U000e01ef\U000f0000\U00100000\U0010ffff\U00013430\U0001bca0\x80\x85\x9f",
]


@pytest.mark.parametrize("c", HIDDEN, ids=lambda c: f"{ord(c):04X}")
def test_what_hides_is_seen(c):
    """Alone, between letters, several together, and in every form of an answer."""
    mark = f"⟨U+{ord(c):04X}⟩"
    assert mark == clean(c)
    assert (f"pay{mark}load {mark * 3}", 4) == clean_and_count(f"pay{c}load {c * 3}")
    for html in (
        to_html(f"pay{c}load"),
        to_html(f"`a{c}`"),
        to_html(f"[a{c}](https://b.c)"),
        code_html(clean(f"a{c}")),
        reasoning_html(f"a{c}"),
    ):
        assert mark in html
        assert c not in html
    assert c not in plain_text(f"a{c}b")


@pytest.mark.parametrize(
    "entity",
    [
        "&#x202e;",
        "&#8203;",
        "&shy;",
        "&ZeroWidthSpace;",
        "&#xE0041;",
        "&zwj;",
        "&rlm;",
        "&lrm;",
        "&NoBreak;",
        "&InvisibleTimes;",
        "&#xFEFF;",
    ],
)
def test_an_entity_hides_nothing(entity):
    """It becomes a character after the source was cleaned: in text, titles, labels, addresses, the language
    of a fence."""
    for source in (
        f"a{entity}b",
        f"[a{entity}b](https://c.d)",
        f"![a{entity}b](c)",
        f"[a](./c{entity}d)",
        f'[a](https://b.c "d{entity}e")',
        f"```x{entity}y z\n```",
    ):
        html = to_html(source)
        assert html == clean(html), source
        assert "U+" in html or entity.replace("&", "&amp;") in html or "%" in html


HONEST = [
    "👨‍👩‍👧",
    "❤️ ⚠️ ✅ ☎︎",
    "1️⃣ #️⃣",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿 🏴󠁧󠁢󠁳󠁣󠁴󠁿 🏴󠁧󠁢󠁷󠁬󠁳󠁿",
    "👍🏽 👩🏽‍💻 🏳️‍🌈 👁️‍🗨️ 🧑🏻‍❤️‍🧑🏿",
    "می‌خواهم نامه‌ها",
    "क्‍ष र्‍य শ্রী‌",
    "ශ්‍රී",
    "שלום \u200f",
    "שלום\u200e (abc)",
    "\u200fשלום",
    "葛\U000e0100城",
    "ᠮᠣᠩᠭᠣᠯ\u180b",
    "é ñ 你好 नमस्ते สวัสดี 😀 \u00a0\u2003\u3000|",
    "a\tb\nc\r\n",
    "٪\u0600",
    "🫨🪿🫩",
    "\u2028",
    "𠮷𠀀𪚥",
    "x\ufffd",
]


@pytest.mark.parametrize("text", HONEST)
def test_honest_company_stays(text):
    """Emoji, scripts that join, marks of direction beside a right-to-left letter."""
    assert (text, 0) == clean_and_count(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\U0001f3f4\U000e0061\U000e0062\U000e007f", "\U0001f3f4⟨U+E0061⟩⟨U+E0062⟩⟨U+E007F⟩"),
        ("😀\ufe0f\ufe0f", "😀\ufe0f⟨U+FE0F⟩"),
        ("😀\U000e0100", "😀⟨U+E0100⟩"),
        ("👨\u200dx", "👨⟨U+200D⟩x"),
        ("م\u200c\u200cی", "م⟨U+200C⟩⟨U+200C⟩ی"),
        ("a\u200fb", "a⟨U+200F⟩b"),
        ("1\ufe0fx", "1⟨U+FE0F⟩x"),
        ("\x00\x1b[1m\x0b\x0c", "␀␛[1m␋␌"),
        ("ש\u202eabc", "ש⟨U+202E⟩abc"),
        ("👨\u200d\u200d👩", "👨⟨U+200D⟩⟨U+200D⟩👩"),
        ("葛\U000e0100\U000e0101", "葛\U000e0100⟨U+E0101⟩"),
        ("\ud83d\ude00\ud800", "😀\ufffd"),
        ("x\ufe0f\u200d😀", "x⟨U+FE0F⟩⟨U+200D⟩😀"),
    ],
)
def test_honest_company_hides_nothing_else(text, shown):
    """More of them than the script needs, or beside the wrong letter."""
    assert shown == clean(text)


COMPANY = st.lists(
    st.sampled_from(
        [*HIDDEN, *"aم😀ש葛ᠮक1# .👨\U0001f3f4❤\u20e3🏽", "\ud800", *map(chr, range(0xE0061, 0xE007B))]
    ),
    max_size=30,
).map("".join)


@given(st.text(max_size=60) | COMPANY)
def test_cleaning_again_changes_nothing(text):
    """And what is clean can be sent."""
    once = clean(text)
    once.encode()
    assert (once, 0) == clean_and_count(once)
