"""The texts of simulated answers and the tokenizer, in which a word piece is a token. Pure and
deterministic."""

from __future__ import annotations

import re
import struct
import zlib
from functools import lru_cache

# A token: a word piece of up to eight characters, or up to three signs, with the white space before it.
_TOKEN = re.compile(r"\s*(?:\w{1,8}|[^\w\s]{1,3})|\s+")

_WORD = re.compile(r"\d+\.\d+|\w+")

# Words of a prompt and the answer to it: one for all models, or one per style. The first row whose words all
# occur is used.
_TOPICS: tuple[tuple[tuple[str, ...], str | tuple[str, ...]], ...] = (
    (
        ("sky", "blue"),
        (
            """\
Sunlight holds all colours. On its way through the air it meets molecules much smaller than its wavelength, and these \
scatter short waves far more than long ones: the strength goes with $1/\\lambda^4$ (**Rayleigh scattering**). So blue light \
reaches the eye from every direction of the sky, while red light passes nearly straight on.""",  # noqa: E501
            """\
Sunlight holds all colours. The air does not treat them alike:

- **Blue** has short waves. Molecules of air scatter them in all directions, so blue comes from everywhere.
- **Red** has long waves, about $1.5$ times as long, and is scattered some **five times less**.

Violet is scattered even more, but the sun sends less of it, and our eyes are less sensitive to it.""",
            """\
Sunlight holds all colours. How strongly air scatters each goes with $1/\\lambda^4$.

| Colour | Wavelength | Scattered, against red |
|---|---:|---:|
| blue | 450 nm | 5.0 |
| green | 550 nm | 2.2 |
| red | 670 nm | 1.0 |

Blue wins, so the sky is blue.""",
            """\
Sunlight holds all colours. Air scatters the blue ones most, so blue reaches you from the whole sky.""",
        ),
    ),
    (
        ("sky", "red"),
        """\
When the sun stands low, its light crosses some forty times more air than at noon. The blue part is scattered away on the \
long road, and what arrives is **red and orange**.""",  # noqa: E501
    ),
    (
        ("rainbow",),
        """\
Each drop bends sunlight on entering, reflects it at its back and bends it again on leaving. Every colour leaves at its own \
angle, about **42° for red** and 40° for violet, so each is seen as a ring around the point opposite the sun.""",  # noqa: E501
    ),
    (
        ("tides",),
        """\
The moon pulls the near side of the sea more than the Earth's centre, and the far side less. Two bulges arise, and the Earth \
turns under both: **two high tides in a little more than a day**.""",  # noqa: E501
    ),
    (
        ("prime",),
        "A prime has exactly two divisors, one and itself: **2, 3, 5, 7, 11, 13** and so on without end.",
    ),
    (
        ("reverse", "string"),
        """\
A slice with a negative step walks backwards:

```python
def reverse(text: str) -> str:
    return text[::-1]
```""",
    ),
    (
        ("haiku", "sea"),
        (
            "Salt wind, then silence.\nThe tide writes on the wet sand\nand takes back each word.",
            "Grey water breathing:\nevery wave has somewhere else\nit would rather be.",
            "A gull, one white stroke.\nBelow it the patient blue\ngoes on being deep.",
            "Wave after wave comes.\nNot one of them remembers\nthe stone it made round.",
        ),
    ),
    (("haiku",), "Packets cross the loop,\nno model wakes to answer,\nstill the cell fills up."),
    (
        ("capital", "france"),
        (
            "**Paris** is the capital of France.",
            "The capital of France is **Paris**, on the Seine.",
            "**Paris**.",
            "France's capital is Paris, as it has been for most of its history.",
        ),
    ),
    (
        ("colour",),
        ("**Blue**, the colour of distance.", "Green: `#2e8b57`, to be exact.", "Ochre.", "Red, of course."),
    ),
    (("9.11", "9.9"), "**9.9** is larger: nine tenths are more than eleven hundredths, 9.90 against 9.11."),
    (("oslo", "json"), '{"city": "Oslo", "country": "Norway", "population": 717710}'),
    (("hello",), "Hello! The connection works from end to end."),
    (("ping",), "pong"),
    (("pong",), "pong"),
)
# The answer to every other prompt, after an opening sentence; chosen by the prompt and the style.
_BODIES = (
    """\
It was made by **nbllm's simulator**; no language model was asked. It speaks the wire format of the provider, streams word by \
word and counts its tokens exactly, so that a notebook can be written, tested and measured without a key.""",  # noqa: E501
    """\
**nbllm's simulator** made it, in the provider's own wire format. Three things in it are real:

1. the *pauses* between the words,
2. the *count* of the tokens,
3. the *cost*, which is nothing.""",
    """\
A real model would begin with the point, add a reason, and say how sure it is. **nbllm's simulator** knows only how to keep \
time: each word piece is sent when a schedule says so.""",  # noqa: E501
    """\
It comes from **nbllm's simulator** on this machine.

| What | Here |
|---|---|
| thought | none |
| tokens | counted exactly |
| key | not needed |""",
    """\
**nbllm's simulator** wrote it before you asked. Run the cell with a provider's key, and the same lines bring a real one.""",  # noqa: E501
    """\
The map is not the territory, and this is not the model: **nbllm's simulator** only has its shape, so that the rest of the notebook can be tried.""",  # noqa: E501
    """\
In brief: the cell works, the words stream, the figures below are measured. What they say is **nbllm's simulator**'s own.""",  # noqa: E501
)

_LONG = """\


## What a simulated answer is good for

- **Writing** a notebook before the key is there: the same cell runs against the real provider later.
- **Testing** it: the same prompt always gives the same text.
- **Measuring**: the time of every chunk is known to the server.

The time between the first and the last of $n$ tokens that come $g$ seconds apart is $(n-1)\\,g$:

```python
def streaming_time(tokens: int, gap: float) -> float:
    return (tokens - 1) * gap
```
"""
_SENTENCES = (
    "The request was read, counted and answered on this machine.",
    "Nothing left the loopback interface.",
    "Each word piece you see is one token.",
    "The pauses between them follow a schedule that was fixed beforehand.",
    "A late chunk does not delay the ones after it.",
    "The usage at the end is a count, not an estimate.",
    "Ask the same again and the same words come back.",
    "Another seed gives the sentences in another order.",
    "The server keeps the moment at which every chunk was written.",
    "A client's clock can be held against that record.",
)
_THOUGHTS = (
    "The prompt should be read once more before answering.",
    "It asks for something short, so a short answer is right.",
    "There is nothing to look up; the simulator knows only its own table.",
    "One could answer in more words.",
    "The main point comes first, then the reason.",
    "It must be plain that no model is thinking here.",
)
_MAX_QUOTED = 60  # characters of the prompt that an answer repeats
_LONG_ANSWER_WORDS = ("at length", "detail", "essay", "thorough", "step by step", "long answer")


def tokenize(text: str) -> list[str]:
    """The tokens of `text`; joined, they are `text` again."""
    return _TOKEN.findall(text)


def count_tokens(text: str) -> int:
    """The number of tokens of `text`."""
    return sum(1 for _ in _TOKEN.finditer(text))


def lowercase_words(text: str) -> list[str]:
    """The words of `text` in lower case."""
    return _WORD.findall(text.lower())


def replace_lone_surrogates(text: str) -> str:
    """`text` in a form that can be encoded: surrogate pairs are joined, lone surrogates replaced."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def answer_tokens(prompt: str, tokens: int | None = None, seed: int = 0, model: str = "") -> tuple[str, ...]:
    """The tokens of an answer of `model` to `prompt`. tokens: their exact number, None for the text's own
    length."""
    prompt_words, style = set(lowercase_words(prompt)), _style_index(model)
    body_index = (zlib.crc32(prompt.encode("utf-8", "replace")) + 5 * style) % len(_BODIES)
    topic_answer = next((item for keys, item in _TOPICS if prompt_words.issuperset(keys)), "")
    text = (
        topic_answer[style]
        if isinstance(topic_answer, tuple)
        else topic_answer or f"{_opening(prompt)} {_BODIES[body_index]}"
    )
    if any(mark in prompt.lower() for mark in _LONG_ANSWER_WORDS):
        text += _LONG
    return tuple(tokenize(text)) if tokens is None else _fill_to_length(text, tokens, _SENTENCES, seed)


def _style_index(model: str) -> int:
    """The index of one of four writing styles, by the model's family."""
    families = (("claude", "anthropic", "mistral"), ("gemini", "gemma", "qwen"), ("llama", "oss"))
    name = model.lower()
    return next((i for i, names in enumerate(families, 1) if any(n in name for n in names)), 0)


def _opening(prompt: str) -> str:
    """The sentence that the answer is simulated. It quotes the prompt's first line in a code span, in which
    Markdown, HTML and mathematics have no effect."""
    line = next((item.strip() for item in prompt.splitlines() if item.strip()), "")
    quoted = "".join(c if c.isprintable() else " " for c in line.replace("`", "'"))
    quoted = quoted if len(quoted) <= _MAX_QUOTED else quoted[: _MAX_QUOTED - 1] + "…"
    return f"This is a simulated answer{f' to `{quoted.strip()}`' if quoted.strip() else ''}."


def reasoning_tokens(tokens: int, seed: int = 0) -> tuple[str, ...]:
    """`tokens` tokens of reasoning."""
    return _fill_to_length("", tokens, _THOUGHTS, seed)


def tokens_to_length(text: str, tokens: int | None = None) -> tuple[str, ...]:
    """The tokens of `text`, repeated or cut to the number `tokens` if it is set."""
    return tuple(tokenize(text)) if tokens is None else _fill_to_length("", tokens, (text.strip() or "-",), 0)


def _fill_to_length(text: str, tokens: int, sentences: tuple[str, ...], seed: int) -> tuple[str, ...]:
    return (_compose_cached if tokens <= _MAX_CACHED_TOKENS else _compose)(text, tokens, sentences, seed)


def _compose(text: str, tokens: int, sentences: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Exactly `tokens` tokens: of `text`, then of as many sentences as needed, in paragraphs of five."""
    parts, n_tokens, i = [text.rstrip()], count_tokens(text.rstrip()), 0
    while n_tokens < tokens:
        gap = "" if not parts[-1] else "\n\n" if i % 5 == 0 else " "
        parts.append(gap + sentences[(i * 7 + i // len(sentences) + seed) % len(sentences)])
        n_tokens += count_tokens(parts[-1])
        i += 1
    return tuple(tokenize("".join(parts))[:tokens])


_MAX_CACHED_TOKENS = 5_000  # longer ones are not cached, to save memory
_compose_cached = lru_cache(maxsize=64)(_compose)


def png(width: int, height: int, seed: int) -> bytes:
    """A PNG image of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((40 + 60 * seed & 255, 90, 160)) * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(row * height))
        + chunk(b"IEND", b"")
    )
