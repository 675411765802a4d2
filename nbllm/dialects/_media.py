"""Pictures and files: parsed from answers in every format, and sent back to providers that take none from a
model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..core.errors import ConfigError
from ..core.events import Event, MediaDelta, Notice
from ..core.messages import (
    Document,
    Image,
    Message,
    Part,
    Request,
    Text,
    audio_type,
    caption,
    picture_type,
    unbase64,
)
from ._json import obj, string
from ._request import with_unique_ids

_HOLDER_FIELDS = (
    "image_url",
    "imageUrl",
    "inlineData",
    "inline_data",
    "fileData",
    "file_data",
    "source",
    "image",
    "input_audio",
    "audio",
    "file",
)
_DATA_FIELDS = (
    "data",
    "b64_json",
    "result",
    "partial_image_b64",
    "image_base64",
    "base64",
    "file_data",
    "image",
    "audio",
)
_URL_FIELDS = ("url", "image_url", "imageUrl", "fileUri", "file_uri", "uri")
_TYPE_FIELDS = ("mimeType", "mime_type", "media_type", "mediaType", "content_type")
_FORMAT_FIELDS = (("image", "output_format"), ("audio", "format"))
_MEDIA_KINDS = (
    "image",
    "output_image",
    "input_image",
    "audio",
    "output_audio",
    "input_audio",
    "file",
    "video",
    "document",
)
_TYPE_PATTERN = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}")


def is_media(part: Any) -> bool:
    """Whether a part of an answer's content has the type of a picture or a file."""
    return string(obj(part).get("type")).startswith(_MEDIA_KINDS)


def media(part: Mapping[str, Any], signature: str | None = None) -> Image | Document | None:
    """The picture or file in a part, inline or by its URL, under the field names of all providers. None for a
    part without one, for invalid base64, and for bytes of an unknown type."""
    holder = next((part[name] for name in _HOLDER_FIELDS if isinstance(part.get(name), dict)), part)
    texts = [
        (name in _URL_FIELDS, text)
        for name in (*_URL_FIELDS, *_DATA_FIELDS)
        if (text := string(holder.get(name)))
    ]
    is_url, text = next(iter(texts), (False, ""))
    kind = _media_type(part, holder)
    if is_url or text.startswith("data:"):
        image = Image(url=text, media_type=kind or "image/png")  # parses a data: URL
        return _image_or_document(image.data, image.url, image.media_type, signature)
    data = unbase64(text)
    kind = (
        picture_type(data or b"")
        or kind
        or audio_type(data or b"")
        or "application/octet-stream" * is_media(part)
    )
    return _image_or_document(data, None, kind, signature) if data and kind else None


def _media_type(part: Mapping[str, Any], holder: Mapping[str, Any]) -> str:
    """The media type that a part names; image/png for an image without one, else ""."""
    kinds = [string(holder.get(name)).lower() for name in _TYPE_FIELDS]
    kinds += [f"{of}/{string(holder.get(name)).lower()}" for of, name in _FORMAT_FIELDS if holder.get(name)]
    named = next(filter(_TYPE_PATTERN.fullmatch, kinds), "")
    return named or ("image/png" if "image" in string(part.get("type")) else "")


def _image_or_document(
    data: bytes | None, url: str | None, kind: str, signature: str | None
) -> Image | Document:
    if kind.startswith("image/"):
        return Image(data, url, kind, signature)
    return Document(data, url, kind)


class Media:
    """The events for pictures and files of one answer, one for each: many servers repeat them in a last
    message."""

    def __init__(self) -> None:
        self._emitted: set[Image | Document] = set()
        self._remainder = ""  # end of a base64 text that does not fill three bytes

    @property
    def has_media(self) -> bool:
        """Whether an event was emitted."""
        return bool(self._emitted)

    def emit(self, part: Image | Document | None, key: str | None = None) -> Iterator[Event]:
        """The event for a part, unless it was emitted before; for None, a notice that it cannot be read."""
        if part is None:
            yield Notice("media", "a picture or file that cannot be read")
        elif part not in self._emitted:
            self._emitted.add(part)
            yield MediaDelta(part, key)

    def emit_audio(self, piece: str) -> Iterator[MediaDelta]:
        """The event for the next piece of an answer's audio, in base64."""
        piece = self._remainder + piece
        size = len(piece) // 4 * 4
        piece, self._remainder = piece[:size], piece[size:]
        data = unbase64(piece)
        if data:
            part = Document(data, media_type=audio_type(data) or "audio/pcm")
            self._emitted.add(part)
            yield MediaDelta(part, "sound", append=True)


_ACCEPTED_TYPES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def check_image_type(part: Image, label: str) -> None:
    """Raises ConfigError for a picture of a type that a provider is known to refuse."""
    if part.data is not None and part.media_type not in _ACCEPTED_TYPES:
        raise ConfigError(
            f"{label} takes no {part.media_type} pictures.",
            hint=f"Convert it to {', '.join(kind.removeprefix('image/') for kind in _ACCEPTED_TYPES)}.",
        )


def move_media_to_user(messages: Sequence[Message], dialect: str = "") -> Iterator[Message]:
    """The conversation for a provider that takes no pictures from a model: those that a model made move to
    the next user message, with a caption in their original position; other files are replaced by a caption.
    Messages after the last user message are not changed. Tool call ids are unique, and raw blocks of other
    dialects are left out."""
    messages = with_unique_ids(messages, dialect)
    users = [i for i, m in enumerate(messages) if m.role == "user"]
    waiting: list[Part] = []
    for i, message in enumerate(messages):
        media = [p for p in message.parts if isinstance(p, (Image, Document))]
        if message.role == "assistant" and media and users and users[-1] > i:
            waiting += [p for p in media if isinstance(p, Image)]
            yield Message(
                "assistant",
                [Text(caption(p)) if isinstance(p, (Image, Document)) else p for p in message.parts],
            )
        elif message.role == "user" and waiting:
            yield Message("user", [*waiting, *message.parts])
            waiting = []
        else:
            yield message


def dropped_files(request: Request, dialect: str) -> str:
    """Captions of the files in earlier answers that `move_media_to_user` leaves out; "" for Gemini, which
    takes all of them back."""
    files = [p for m in request.messages if m.role == "assistant" for p in m.parts if isinstance(p, Document)]
    return "" if dialect == "gemini" else " ".join(map(caption, files))
