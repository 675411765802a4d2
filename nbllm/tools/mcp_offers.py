"""What MCP servers offer beside tools: resources, which a prompt takes along, and prompts. As plain values,
and as the parts and messages that a model reads. Pure: the SDK's objects are read by their fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.errors import ConfigError
from ..core.messages import Document, Image, Message, Text, caption
from ..core.values import CHARACTERS, SIZE_LIMIT, truncate
from .consent import Described, described
from .mcp_content import Part, binary, message_parts
from .mcp_mend import TEXT_LIMIT, line, nearest

ADDRESS = "mcp://"  # of a resource: mcp://SERVER/ and its name, or its own address


@dataclass(frozen=True, slots=True)
class Resource:
    """A resource as a server tells of it: its own address (of a template with places to fill), its name, its
    media type, its size in bytes."""

    uri: str
    name: str
    kind: str = ""
    description: str = ""
    size: int | None = None
    template: bool = False

    @classmethod
    def of(cls, told: Any) -> Resource:
        """From the SDK's."""
        pattern = getattr(told, "uri_template", None)
        return cls(
            pattern or told.uri,
            told.name,
            told.mime_type or "",
            told.description or "",
            getattr(told, "size", None),
            pattern is not None,
        )

    @property
    def ident(self) -> str:
        """What it is read by."""
        return self.uri

    @property
    def pinned(self) -> Mapping[str, Any]:
        """What consent to it is bound to, beside its name and description."""
        return {"uri": self.uri, "type": self.kind}

    @property
    def tail(self) -> str:
        """Its address without the scheme."""
        return self.uri.partition("://")[2].lstrip("/") or self.uri


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a server. arguments: what fills it, by name, and whether it must be given."""

    name: str
    description: str
    arguments: Mapping[str, bool]

    @classmethod
    def of(cls, told: Any) -> Prompt:
        """From the SDK's."""
        return cls(
            told.name, told.description or "", {a.name: bool(a.required) for a in told.arguments or ()}
        )

    @property
    def ident(self) -> str:
        """What it is asked for by."""
        return self.name

    @property
    def pinned(self) -> Mapping[str, Any]:
        """What consent to it is bound to, beside its name and description."""
        return self.arguments

    def checked(self, arguments: Mapping[str, str], server: str) -> dict[str, str]:
        """The arguments. Raises ConfigError for what it does not take, and for what it needs."""
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


def noted(offers: Sequence[Resource | Prompt]) -> list[Described]:
    """Each as consent notes it: under its name, where that is its alone."""
    counted = Counter(o.name for o in offers)
    return [
        described(o.name if counted[o.name] == 1 else o.ident, o.description, dict(o.pinned)) for o in offers
    ]


def found(words: str, offered: Sequence[Resource], server: str) -> str:
    """The address of the resource that `words` mean: its name, its address or the end of that. An address of
    none that is told of may be one that a template makes. Raises ConfigError with the nearest."""
    known = [r for r in offered if not r.template]
    for field in ("uri", "name", "tail"):
        fits = [r.uri for r in known if getattr(r, field) == words]
        if len(fits) == 1:
            return fits[0]
        if fits:
            listed = ", ".join(line(uri, 200) for uri in fits[:5])
            raise ConfigError(
                f"{server} has {len(fits)} resources {words!r}.", hint=f"Write one of {listed}."
            )
    if ":" in words:
        return words
    listing = f"`%llm mcp resources {server.removeprefix('mcp/')}` lists them."
    names = [*(r.name for r in known), *(r.tail for r in known)]
    raise ConfigError(f"{server} has no resource {line(words, 100)!r}.", hint=nearest(words, names, listing))


def resource_parts(result: Any, name: str, masked: Callable[[str], str], budget: int) -> list[Part]:
    """What was read, as parts of a prompt: text under its name, at most `budget` tokens in all, and pictures
    and PDFs. Raises ConfigError where nothing of it is what models read."""
    contents = result.contents
    share = max(1, budget // max(1, len(contents))) * CHARACTERS
    parts, others = list[Part](), list[str]()
    for item in contents:
        text = getattr(item, "text", None)
        if isinstance(text, str):
            parts.append(
                Text(
                    f"\n\n{line(name, 300)}:\n```\n"
                    f"{truncate(masked(truncate(text, TEXT_LIMIT)), share)}\n```\n"
                )
            )
        elif isinstance(part := binary(item.blob, item.mime_type or "", name), Text):
            others.append(part.text)
        elif len(part.data or b"") > SIZE_LIMIT:
            others.append(f"[{len(part.data or b'') >> 20} MiB; at most {SIZE_LIMIT >> 20} can be attached]")
        else:
            parts.append(part)
    if not parts:
        what = ", ".join(others[:3]) or "it is empty"
        raise ConfigError(
            f"{line(name, 300)} holds nothing that a model reads: {what}.",
            hint="Attach text, pictures or PDFs.",
        )
    return [*parts, *map(Text, others)]


def prompt_messages(result: Any, masked: Callable[[str], str]) -> list[Message]:
    """A prompt that a server has filled, as messages."""
    return [
        Message(
            m.role, [Text(masked(p.text)) if isinstance(p, Text) else p for p in message_parts(m.content)]
        )
        for m in result.messages
    ]


def as_text(messages: Iterable[Message]) -> str:
    """Messages as the text of one prompt: what the user says alone, else each under who says it; what is no
    text in words."""
    said = [(m.role, "\n\n".join(map(_words, m.parts))) for m in messages]
    if [role for role, _ in said] == ["user"]:
        return said[0][1]
    return "\n\n".join(f"{role.capitalize()}:\n{text}" for role, text in said)


def _words(part: Any) -> str:
    return caption(part) if isinstance(part, (Image, Document)) else str(part.text)
