"""The words of a conversation: messages, their parts, tools and the request that carries them. Pure
values."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


def _unpack(part: Image | Document) -> None:
    """Takes the bytes out of a data: URL, which not every provider reads as an address. Raises TypeError for
    data that is none: the name of a file, say."""
    if not isinstance(part.data, bytes | bytearray | None):
        kind = type(part.data).__name__
        raise TypeError(f"data takes bytes, and no {kind}: Path(...).read_bytes() for a file, or url=.")
    head, comma, text = (part.url or "").partition(",")
    if (
        comma
        and head.startswith("data:")
        and head.endswith(";base64")
        and (data := unbase64(text)) is not None
    ):
        object.__setattr__(part, "data", data)
        object.__setattr__(part, "media_type", head[5:-7].partition(";")[0] or part.media_type)
        object.__setattr__(part, "url", None)


def unbase64(text: str) -> bytes | None:
    """The bytes in base64, of either alphabet and with or without its padding; None for other text."""
    text = "".join(text.split()).translate(_ALPHABET).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


_ALPHABET = str.maketrans("-_", "+/")
_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_SOUNDS = {b"ID3": "audio/mpeg", b"\xff\xfb": "audio/mpeg", b"OggS": "audio/ogg", b"fLaC": "audio/flac"}


def picture_type(data: bytes) -> str | None:
    """The media type of a picture, by its first bytes; None for anything else (SVG and HTML, whatever they
    are called)."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for head, kind in _PICTURES.items() if data.startswith(head)), None)


def audio_type(data: bytes) -> str | None:
    """The media type of sound, by its first bytes; None where they do not say."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    return next((kind for head, kind in _SOUNDS.items() if data.startswith(head)), None)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG or JPEG; None for others, and where they are not told."""
    if picture_type(data) == "image/png" and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    at = 2 if picture_type(data) == "image/jpeg" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        at += (
            1 if marker == 0xFF else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
        )  # a byte of padding, or a segment
    return None


def caption(part: Image | Document) -> str:
    """A picture or document in words: [image, 1024x1024 PNG], [audio/wav, 12 kB], [image at https://...]."""
    what = "image" if isinstance(part, Image) else part.name or part.media_type
    if part.data is None:
        url = part.url or "nowhere"
        return f"[{what} at {url if len(url) <= 200 else url[:199] + '…'}]"
    kind, size = picture_type(part.data), picture_size(part.data)
    if isinstance(part, Document) or kind is None:
        return (
            f"[{what if isinstance(part, Document) else part.media_type}, "
            f"{max(1, round(len(part.data) / 1000)):,} kB]"
        )
    return f"[image, {f'{size[0]}x{size[1]} ' if size else ''}{kind.removeprefix('image/').upper()}]"


def _source(url: str | None, data: bytes | None) -> str:
    return url or f"{len(data or b'')} bytes"


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. `signature` is an opaque token that some providers (Gemini) want back with it."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """A picture: its bytes in `data` with a `media_type`, or a `url` that the provider fetches itself. The
    type is what the bytes say. `signature` is an opaque token that some providers (Gemini) want back with a
    picture that they made."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = "image/png"
    signature: str | None = None

    def __post_init__(self) -> None:
        _unpack(self)
        told = self.media_type.partition(";")[0].strip().lower().replace("image/jpg", "image/jpeg")
        object.__setattr__(self, "media_type", picture_type(self.data or b"") or told)

    def _repr_png_(self) -> bytes | None:
        return self.data if self.media_type == "image/png" and picture_size(self.data or b"") else None

    def _repr_jpeg_(self) -> bytes | None:
        return self.data if self.media_type == "image/jpeg" and picture_size(self.data or b"") else None

    def __repr__(self) -> str:
        return f"Image({_source(self.url, self.data)}, {self.media_type})"


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A document such as a PDF: bytes in `data` with a `media_type`, or a `url`; `name` is shown to the
    model."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = "application/pdf"
    name: str | None = None

    def __post_init__(self) -> None:
        _unpack(self)

    def __repr__(self) -> str:
        return f"Document({self.name or _source(self.url, self.data)}, {self.media_type})"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What a model thought. `signature` (or encrypted content) must go back unchanged with the next turn;
    `redacted` holds a block whose text the provider withheld; `id` is the provider's own name for the
    block."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model asks for. `arguments` is None where `arguments_raw` is not a valid JSON object;
    such a call must not be run. `made_up`: the provider sent no id; `id` is ours, unique within the answer
    only, and is made unique within a conversation when that is sent."""

    id: str
    name: str
    arguments: dict[str, Any] | None
    arguments_raw: str = ""
    signature: str | None = None
    made_up: bool = False


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool call came to: text, or a tuple of Text, Image and Document parts. `name` is the tool's
    (Gemini wants it)."""

    id: str
    content: str | tuple[Text | Image | Document, ...]
    is_error: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """A block of a provider's own that nbllm does not read and that must go back as it came: what a server's
    own tool did, a compaction. `dialect` is the wire format that knows it; others are not sent it."""

    dialect: str
    block: Mapping[str, Any]


Part = Text | Image | Document | Reasoning | ToolCall | ToolResult | Raw


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One turn. `parts` may be given as a string or a single part; it is kept as a tuple of parts.
    pinned: the turn that begins here stays whole when the conversation is shortened; no provider is told."""

    role: Role
    parts: tuple[Part, ...] = ()
    pinned: bool = field(default=False, repr=False)

    def __init__(
        self, role: Role, parts: str | Part | Iterable[Part | str] = (), pinned: bool = False
    ) -> None:
        if isinstance(parts, (str, Text, Image, Document, Reasoning, ToolCall, ToolResult, Raw)):
            parts = (parts,)
        object.__setattr__(self, "role", role)
        object.__setattr__(self, "parts", tuple(Text(p) if isinstance(p, str) else p for p in parts))
        object.__setattr__(self, "pinned", pinned)

    @property
    def text(self) -> str:
        """All text parts joined with nothing."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))


@dataclass(frozen=True, slots=True)
class Tool:
    """Something a model may call: `parameters` is the JSON schema of its arguments object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high"]
Cache = Literal["auto", "1h"]


@dataclass(frozen=True, slots=True)
class Request:
    """Everything one call asks for. Nothing is sent that was not asked for.

    reasoning: an effort word ("none", "minimal", "low", "medium", "high") or a budget in tokens; None leaves
    it to the model. schema: a JSON schema that the answer must follow; strict: the
    provider holds it to that, which is rewritten for it. tool_choice: "auto", "none",
    "required" or a tool's name. cache: the provider is asked to keep the prompt for the next request that
    begins like it, "1h" for longer than its usual minutes; None asks nothing. extra: merged into the request
    body as it is, top level, after everything else.
    """

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    reasoning: Effort | int | None = None
    schema: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    cache: Cache | None = None
    strict: bool | None = None

    @property
    def system(self) -> str:
        """The text of all system messages, joined by blank lines; "" where there is none."""
        return "\n\n".join(m.text for m in self.messages if m.role == "system")
