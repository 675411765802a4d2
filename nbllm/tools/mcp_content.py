"""Converts content from MCP servers (results of tools, prompts) into message parts. Pure: it reads the fields
of the SDK's objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..core.messages import Document, Image, Text, audio_type, picture_type, unbase64
from ..core.values import truncate
from .mcp_mend import TEXT_LIMIT, clean, line
from .results import NO_VALUE

Part = Text | Image | Document


def result_parts(result: Any, mask: Callable[[str], str]) -> str | list[Part]:
    """A result's parts: its texts, images, resources and links. mask: removes secrets from a text."""
    merged = list(_merge_texts(_parts(result.content)))
    parts = [Text(mask(truncate(p.text, TEXT_LIMIT))) if isinstance(p, Text) else p for p in merged]
    if not parts:
        return NO_VALUE
    return parts[0].text if len(parts) == 1 and isinstance(parts[0], Text) else parts


def result_text(result: Any) -> str:
    """The text of a result in one line, for the error of a failed call."""
    texts = [p.text[:TEXT_LIMIT] for p in _parts(result.content) if isinstance(p, Text)]
    return line(" ".join(texts)) or "no reason given"


def message_parts(content: Any) -> list[Part]:
    """The parts of a prompt's message, whose content is one block."""
    return [Text(truncate(p.text, TEXT_LIMIT)) if isinstance(p, Text) else p for p in _parts([content])]


def _merge_texts(parts: Iterable[Part]) -> Iterator[Part]:
    """Joins adjacent texts."""
    texts: list[str] = []
    for part in parts:
        if isinstance(part, Text):
            texts.append(part.text)
            continue
        if texts:
            yield Text("\n".join(texts))
            texts = []
        yield part
    if texts:
        yield Text("\n".join(texts))


def _parts(content: Iterable[Any]) -> Iterator[Part]:
    for block in content:
        yield _CONVERTERS.get(block.type, _unknown)(block)


def _resource(block: Any) -> Part:
    inside = block.resource
    text = getattr(inside, "text", None)
    if isinstance(text, str):
        return Text(f"[resource {line(str(inside.uri), 300)}]\n{text}")
    return file_part(inside.blob, inside.mime_type or "", str(inside.uri))


def _link(block: Any) -> Part:
    about = f": {line(block.description, 300)}" if block.description else ""
    return Text(f"[link to {line(str(block.uri), 300)}, {line(block.name, 100)}{about}]")


def file_part(text: str, kind: str, name: str = "") -> Part:
    """An image or a PDF, recognised by its bytes; a description of anything else."""
    data = unbase64(text)
    if data is not None and picture_type(data):
        return Image(data)
    if data is not None and data.startswith(b"%PDF"):
        return Document(data, name=line(name, 100) or None)
    known = audio_type(data or b"") or line(kind, 60) or "data"
    what = f"{known}{f' at {line(name, 300)}' if name else ''}"
    return Text(f"[{what}, {len(data or b'') / 1000:,.0f} kB, which cannot be shown]")


def _unknown(block: Any) -> Part:
    return Text(f"[a part of the kind {clean(str(block.type), 60)}, which cannot be shown]")


_CONVERTERS: dict[str, Callable[[Any], Part]] = {
    "text": lambda block: Text(block.text),
    "image": lambda block: file_part(block.data, block.mime_type),
    "audio": lambda block: file_part(block.data, block.mime_type),
    "resource": _resource,
    "resource_link": _link,
}
