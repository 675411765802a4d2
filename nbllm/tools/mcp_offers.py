"""Resources and prompts of MCP servers: as plain values, and as parts and messages for a model. Pure: it
reads the fields of the SDK's objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.messages import Document, Image, Message, Text, caption
from ..core.values import CHARACTERS_PER_TOKEN, FILE_SIZE_LIMIT, truncate
from .consent import Definition, define
from .mcp_content import Part, file_part, message_parts
from .mcp_mend import TEXT_LIMIT, line, nearest_hint

ADDRESS = "mcp://"  # of a resource: mcp://SERVER/NAME or mcp://SERVER/URI


@dataclass(frozen=True, slots=True)
class Resource:
    """A server's resource: its URI (of a template with placeholders), name, media type and size in bytes."""

    uri: str
    name: str
    media_type: str = ""
    description: str = ""
    size: int | None = None
    template: bool = False

    @classmethod
    def of(cls, sdk_object: Any) -> Resource:
        """From the SDK's object."""
        pattern = getattr(sdk_object, "uri_template", None)
        return cls(
            pattern or sdk_object.uri,
            sdk_object.name,
            sdk_object.mime_type or "",
            sdk_object.description or "",
            getattr(sdk_object, "size", None),
            pattern is not None,
        )

    @property
    def key(self) -> str:
        """The key by which it is read."""
        return self.uri

    @property
    def consent_data(self) -> Mapping[str, Any]:
        """The data that consent is bound to, besides name and description."""
        return {"uri": self.uri, "type": self.media_type}

    @property
    def tail(self) -> str:
        """Its URI without the scheme."""
        return self.uri.partition("://")[2].lstrip("/") or self.uri


@dataclass(frozen=True, slots=True)
class Prompt:
    """A server's prompt. arguments: by name, whether each is required."""

    name: str
    description: str
    arguments: Mapping[str, bool]

    @classmethod
    def of(cls, sdk_object: Any) -> Prompt:
        """From the SDK's object."""
        return cls(
            sdk_object.name,
            sdk_object.description or "",
            {a.name: bool(a.required) for a in sdk_object.arguments or ()},
        )

    @property
    def key(self) -> str:
        """The key by which it is requested."""
        return self.name

    @property
    def consent_data(self) -> Mapping[str, Any]:
        """The data that consent is bound to, besides name and description."""
        return self.arguments

    def check_arguments(self, arguments: Mapping[str, str], server: str) -> dict[str, str]:
        """The arguments. Raises ConfigError for unknown and missing ones."""
        takes = ", ".join(
            f"{line(n, 60)}{'' if need else ' (optional)'}" for n, need in self.arguments.items()
        )
        hint = f"It takes {takes}." if takes else "It takes no arguments."
        wrong = [n for n in arguments if n not in self.arguments]
        missing = [n for n, need in self.arguments.items() if need and n not in arguments]
        if wrong or missing:
            word, name = ("takes no", wrong[0]) if wrong else ("needs", missing[0])
            raise ConfigError(
                f"The prompt {line(self.name, 60)!r} of {server} {word} {line(name, 60)}.", hint=hint
            )
        return dict(arguments)


def to_definitions(offers: Sequence[Resource | Prompt]) -> list[Definition]:
    """The definitions to which consent is bound; each by its name, where that is unique."""
    counted = Counter(o.name for o in offers)
    return [
        define(o.name if counted[o.name] == 1 else o.key, o.description, dict(o.consent_data)) for o in offers
    ]


def find_uri(reference: str, offered: Sequence[Resource], server: str) -> str:
    """The URI of the resource for a reference: its name, its URI or the URI without the scheme. An unknown
    URI is returned as it is, since a template may produce it. Raises ConfigError with the most similar
    names."""
    known = [r for r in offered if not r.template]
    for field in ("uri", "name", "tail"):
        fits = [r.uri for r in known if getattr(r, field) == reference]
        if len(fits) == 1:
            return fits[0]
        if fits:
            listed = ", ".join(line(uri, 200) for uri in fits[:5])
            raise ConfigError(
                f"{server} has {len(fits)} resources {reference!r}.", hint=f"Write one of {listed}."
            )
    if ":" in reference:
        return reference
    listing = f"`%llm mcp resources {server.removeprefix('mcp/')}` lists them."
    names = [*(r.name for r in known), *(r.tail for r in known)]
    raise ConfigError(
        f"{server} has no resource {line(reference, 100)!r}.", hint=nearest_hint(reference, names, listing)
    )


def resource_parts(result: Any, name: str, mask: Callable[[str], str], budget: int) -> list[Part]:
    """A resource's content as parts of a prompt: text under its name, at most `budget` tokens in all, images
    and PDFs. Raises ConfigError where models can read nothing of it."""
    contents = result.contents
    share = max(1, budget // max(1, len(contents))) * CHARACTERS_PER_TOKEN
    parts, others = list[Part](), list[str]()
    for item in contents:
        text = getattr(item, "text", None)
        if isinstance(text, str):
            parts.append(
                Text(
                    f"\n\n{line(name, 300)}:\n```\n{truncate(mask(truncate(text, TEXT_LIMIT)), share)}\n```\n"
                )
            )
        elif isinstance(part := file_part(item.blob, item.mime_type or "", name), Text):
            others.append(part.text)
        elif len(part.data or b"") > FILE_SIZE_LIMIT:
            others.append(
                f"[{len(part.data or b'') >> 20} MiB; at most {FILE_SIZE_LIMIT >> 20} can be attached]"
            )
        else:
            parts.append(part)
    if not parts:
        what = ", ".join(others[:3]) or "it is empty"
        raise ConfigError(
            f"{line(name, 300)} holds nothing that a model can read: {what}.",
            hint="Attach text, images or PDFs.",
        )
    return [*parts, *map(Text, others)]


def prompt_messages(result: Any, mask: Callable[[str], str]) -> list[Message]:
    """A prompt that a server has filled in, as messages."""
    return [
        Message(m.role, [Text(mask(p.text)) if isinstance(p, Text) else p for p in message_parts(m.content)])
        for m in result.messages
    ]


def as_text(messages: Iterable[Message]) -> str:
    """Messages as the text of one prompt: a single user message alone, else each under its role; files are
    described."""
    texts = [(m.role, "\n\n".join(map(_part_text, m.parts))) for m in messages]
    if [role for role, _ in texts] == ["user"]:
        return texts[0][1]
    return "\n\n".join(f"{role.capitalize()}:\n{text}" for role, text in texts)


def _part_text(part: Any) -> str:
    return caption(part) if isinstance(part, (Image, Document)) else str(part.text)
