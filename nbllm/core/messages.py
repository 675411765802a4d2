"""The types of a conversation: messages, their parts, tools and the request. Pure values."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


def _decode_data_url(part: Image | Document) -> None:
    """Replaces a data: URL by its bytes, as not every provider accepts one. Raises TypeError where `data` is
    not bytes, but a file name, for example."""
    if not isinstance(part.data, bytes | bytearray | None):
        kind = type(part.data).__name__
        raise TypeError(f"data takes bytes, not {kind}: use Path(...).read_bytes() for a file, or url=.")
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
    """Decodes base64 in either alphabet, with or without padding; None for other text."""
    text = "".join(text.split()).translate(_ALPHABET).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return None


_ALPHABET = str.maketrans("-_", "+/")
_PICTURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
_SOUNDS = {b"ID3": "audio/mpeg", b"\xff\xfb": "audio/mpeg", b"OggS": "audio/ogg", b"fLaC": "audio/flac"}


def picture_type(data: bytes) -> str | None:
    """The media type of an image, by its first bytes; None for anything else (SVG and HTML too)."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for head, kind in _PICTURES.items() if data.startswith(head)), None)


def audio_type(data: bytes) -> str | None:
    """The media type of sound, by its first bytes; None for anything else."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "audio/wav"
    return next((kind for head, kind in _SOUNDS.items() if data.startswith(head)), None)


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG or JPEG; None for others, or where they are missing."""
    if picture_type(data) == "image/png" and len(data) >= 24:
        return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    at = 2 if picture_type(data) == "image/jpeg" else len(data)
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[at + 7 : at + 9]), int.from_bytes(data[at + 5 : at + 7])
        # a padding byte, or a segment
        at += 1 if marker == 0xFF else 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return None


def caption(part: Image | Document) -> str:
    """A textual placeholder for a file: [image, 1024x1024 PNG], [audio/wav, 12 kB], [image at
    https://...]."""
    name = "image" if isinstance(part, Image) else part.name or part.media_type
    if part.data is None:
        url = part.url or "nowhere"
        return f"[{name} at {url if len(url) <= 200 else url[:199] + '…'}]"
    kind, size = picture_type(part.data), picture_size(part.data)
    if isinstance(part, Document) or kind is None:
        return (
            f"[{name if isinstance(part, Document) else part.media_type}, "
            f"{max(1, round(len(part.data) / 1000)):,} kB]"
        )
    return f"[image, {f'{size[0]}x{size[1]} ' if size else ''}{kind.removeprefix('image/').upper()}]"


def _source(url: str | None, data: bytes | None) -> str:
    return url or f"{len(data or b'')} bytes"


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text. `signature` is an opaque token that some providers (Gemini) want sent back with it."""

    text: str
    signature: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Image:
    """An image: its bytes in `data` with a `media_type`, or a `url` that the provider fetches. The type is
    detected from the bytes. `signature` is an opaque token that some providers (Gemini) want sent back with
    an image that they generated."""

    data: bytes | None = None
    url: str | None = None
    media_type: str = "image/png"
    signature: str | None = None

    def __post_init__(self) -> None:
        _decode_data_url(self)
        declared = self.media_type.partition(";")[0].strip().lower().replace("image/jpg", "image/jpeg")
        object.__setattr__(self, "media_type", picture_type(self.data or b"") or declared)

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
        _decode_data_url(self)

    def __repr__(self) -> str:
        return f"Document({self.name or _source(self.url, self.data)}, {self.media_type})"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A model's reasoning. `signature` (or encrypted content) must be sent back unchanged with the next turn;
    `redacted` holds a block whose text the provider withheld; `id` is the provider's id of the block."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call that the model requests. `arguments` is None where `arguments_raw` is not a JSON object;
    such a call must not be run. `made_up`: the provider sent no id; `id` was generated, is unique within the
    answer only, and is made unique within the conversation when that is sent."""

    id: str
    name: str
    arguments: dict[str, Any] | None
    arguments_raw: str = ""
    signature: str | None = None
    made_up: bool = False


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a tool call: text, or a tuple of Text, Image and Document parts. `name` is that of the
    tool (Gemini needs it)."""

    id: str
    content: str | tuple[Text | Image | Document, ...]
    is_error: bool = False
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """A block that nbllm does not interpret and that must be sent back unchanged: the result of a server-side
    tool, a compaction. `dialect` is its wire format; it is not sent in others."""

    dialect: str
    block: Mapping[str, Any]


Part = Text | Image | Document | Reasoning | ToolCall | ToolResult | Raw


@dataclass(frozen=True, slots=True, init=False)
class Message:
    """One turn. `parts` may be given as a string or a single part; it is stored as a tuple of parts.
    pinned: the turn that begins here stays complete when the conversation is shortened; it is not sent."""

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
        """All text parts, joined without a separator."""
        return "".join(p.text for p in self.parts if isinstance(p, Text))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a model may call: `parameters` is the JSON schema of its arguments object."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


Effort = Literal["none", "minimal", "low", "medium", "high"]
Cache = Literal["auto", "1h"]


@dataclass(frozen=True, slots=True)
class Request:
    """The content of one call. Only what is set is sent.

    reasoning: an effort ("none", "minimal", "low", "medium", "high") or a budget in tokens; None leaves it to
    the model. schema: a JSON schema that the answer must match; strict: the provider enforces the schema,
    which is rewritten for that. tool_choice: "auto", "none", "required" or a tool's name. cache: asks the
    provider to cache the prompt for the next request with the same beginning, "1h" for longer than the usual
    minutes; None asks for nothing. extra: merged into the top level of the request body, unchanged, last.
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
