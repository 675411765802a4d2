"""Calls with their answers in a file beside the notebook, from which it runs again without keys and without a
socket: `NAME.llm.jsonl`, one line a call.

A line has our request (pictures by their hash), its hash, and the events with the seconds at which they came;
the error where it ended by one. No HTTP header is in it, and of the request nothing that is secret. A
recording may be somebody else's: lines are bounded, every field is checked, and what is in it is an answer
like any other.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ..core import errors
from ..core.codec import VERSION, check_version, digest, from_plain, to_plain
from ..core.errors import MASK, ConfigError, NbllmError, ProtocolError, scrub
from ..core.events import Event, Finished, StepEnded, ToolEnded, ToolStarted
from ..core.messages import Request
from .answers import worth

SUFFIX = ".llm.jsonl"
_LONGEST = 64 * 2**20  # bytes of a line
_HEAD = b'{"nbllm"'
_LATEST = 86_400.0  # seconds at which an event may have come
_PRIVATE = r"(?i)key|token$|secret|passw|authorization|credential|cookie"
_OURS = (StepEnded, ToolStarted, ToolEnded)  # of the loop over tools, never of an answer
# What is written of an error: never what a provider sent as it is, nor where the request went.
_OF_ERROR: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("message", "hint", "type", "code", "which"), str),
    "status": int,
    "seconds": (int, float),
}


class Told(msgspec.Struct, frozen=True):
    """A request as it is written down, without what is secret; its hash; who was asked."""

    provider: str
    model: str
    request: Mapping[str, Any]
    hash: str


class Played(msgspec.Struct, frozen=True):
    """What came of a call: (seconds since the call, event); who answered, as [provider, model]; the error
    where it ended by one."""

    events: tuple[tuple[float, Event], ...]
    by: Any
    simulated: bool = False
    error: NbllmError | None = None


def told(request: Request, provider: str, secrets: Sequence[str]) -> Told:
    """A request as it is written down. Raises ConfigError for what has no JSON form."""
    plain = to_plain(request)
    private = {"extra": _unnamed(plain["extra"])} if "extra" in plain else {}
    plain = _without({**plain, **private}, lambda text: scrub(text, secrets))
    provider = scrub(provider, secrets)
    return Told(provider, request.model, plain, digest([VERSION, provider, plain]))


def _without(value: Any, masked: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        file = value.get("type") in ("Image", "Document")
        return {k: _hashed(v) if file and k == "data" else _without(v, masked) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(v, masked) for v in value]
    return masked(value) if isinstance(value, str) else value


def _unnamed(value: Any, name: str = "") -> Any:
    """What goes to a provider as it is, without texts whose names say that they are secret."""
    if isinstance(value, dict):
        return {k: _unnamed(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_unnamed(v, name) for v in value]
    return MASK if isinstance(value, str) and re.search(_PRIVATE, name) else value


def _hashed(data: Any) -> str:
    return f"sha256:{sha256(str(data).encode('utf-8', 'replace')).hexdigest()}"


class Recording:
    """A file that calls are written to. The first of them makes it, and puts one that is there already aside
    as NAME.old. Any thread. Raises ConfigError where it cannot be written, or is no recording."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._numbers = threading.Lock(), Counter[str]()
        self._new, self.problem = True, ""  # why the last call is not in it
        try:
            if path.exists() and path.stat().st_size:
                Tape(path)  # raises for a file that is something else
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise PermissionError(0, "it, or its folder, is not there or not for you to write")
        except OSError as error:
            raise _unusable(path, "written", error) from None

    def add(
        self,
        about: Told,
        events: Sequence[tuple[float, Event]],
        secrets: Sequence[str],
        simulated: bool,
        *,
        by: Told | None = None,
        failed: NbllmError | None = None,
    ) -> str:
        """Writes a call down; gives why it was not, "" where it was. by: who answered, where that is another;
        failed: the error that it ended by."""
        end = [Finished("other")] if failed else []  # what came before an error is whole
        kept = worth([*(event for _, event in events), *end], secrets, every=True)
        if not kept:
            return "This answer is not in the recording: it was not whole, or holds a key."
        times = {id(event): at for at, event in events}
        with self._lock:
            self._numbers[about.hash] += 1
            line = {
                "hash": about.hash,
                "n": self._numbers[about.hash],
                "provider": about.provider,
                "model": about.model,
                **({"by": [by.provider, by.model]} if by else {}),
                "simulated": simulated,
                "request": about.request,
                "events": [[round(times[id(e)], 4), to_plain(e)] for e in kept if id(e) in times],
                **({"error": _told_error(failed, secrets)} if failed else {}),
            }
            try:
                if self._new:
                    self._begin()
                self._append(line)
            except OSError as error:
                return f"This answer is not in the recording: {error.strerror}."
        return ""

    def _begin(self) -> None:
        if self.path.exists() and self.path.stat().st_size:
            os.replace(self.path, self.path.with_name(self.path.name + ".old"))
        self._append({"nbllm": VERSION, "recording": 1})
        self._new = False

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, sort_keys=False, separators=(",", ":")) + "\n").encode("ascii")
        if len(data) > _LONGEST:
            raise OSError(0, f"it is longer than {_LONGEST >> 20} MiB")
        with open(self.path, "ab", buffering=0) as file:
            file.write(data)


class Tape:
    """A recording that is played. pace: "now", or "recorded" for the times at which events came. Equal
    requests have their answers in the order in which they were recorded, the last one from then on; an error
    that an answer to the same request followed is not played. Raises ConfigError for a file that cannot be
    read."""

    def __init__(self, path: Path, pace: str = "now") -> None:
        if pace not in ("now", "recorded"):
            raise ConfigError(f"No pace is called {pace[:40]!r}.", hint="pace=now, or pace=recorded.")
        self.path, self.pace = path, pace
        self._lock, self._places, self._played = threading.Lock(), dict[str, list[int]](), Counter[str]()
        self.first = ""  # provider/model of the first call: what "auto" meant
        failed = set[int]()  # where errors stand
        for place, line in self._lines():
            places = self._places.setdefault(line["hash"], [])
            failed |= {place} if "error" in line else set()
            while places and "error" not in line and places[-1] in failed:
                places.pop()
            places.append(place)
            self.first = self.first or f"{line['provider']}/{line['model']}"

    @property
    def calls(self) -> int:
        """How many calls it has."""
        return sum(map(len, self._places.values()))

    def has(self, about: Told) -> bool:
        """Whether a request was recorded."""
        return about.hash in self._places

    def answer(self, about: Told) -> Played:
        """The next answer to a request. Raises ConfigError where none was recorded: it names the nearest
        request and where that differs."""
        places = self._places.get(about.hash)
        if not places:
            raise self._missing(about)
        with self._lock:
            at = min(self._played[about.hash], len(places) - 1)
            self._played[about.hash] += 1
        _, line = next(self._lines(places[at]))
        try:
            events = tuple((_time(at), from_plain(event, Event)) for at, event in line["events"])
        except (ProtocolError, ValueError, TypeError) as error:
            raise self._foreign(f"an answer that nbllm did not write ({error})") from None
        failed = line.get("error")
        whole = failed is not None or (bool(events) and isinstance(events[-1][1], Finished))
        if not whole or any(isinstance(e, _OURS) for _, e in events):
            raise self._foreign("an answer that is not whole")
        by = line.get("by") or [line["provider"], line["model"]]
        return Played(
            events, by, line.get("simulated") is True, None if failed is None else _as_error(failed)
        )

    def _lines(self, place: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines from `place` on, with theirs. What a kill left of the last line is no line, but one that
        lacks its end alone is."""
        try:
            with open(self.path, "rb") as file:
                file.seek(place)
                while data := file.readline(_LONGEST + 1):
                    if len(data) > _LONGEST:
                        raise self._foreign(f"a line of more than {_LONGEST >> 20} MiB")
                    try:
                        line = self._checked(data, place)
                    except ConfigError:
                        if data.endswith(b"\n") or not (place or _HEAD.startswith(data[: len(_HEAD)])):
                            raise
                        return
                    if line is not None:
                        yield place, line
                    place += len(data)
        except OSError as error:
            raise _unusable(self.path, "read", error) from None

    def _checked(self, data: bytes, place: int) -> dict[str, Any] | None:
        try:
            line = json.loads(data)
        except (ValueError, RecursionError):
            raise self._foreign("a line that is no JSON") from None
        if isinstance(line, dict) and place == 0 and line.get("recording") == 1:
            check_version(line.get("nbllm"))
            return None
        wanted = {"hash": str, "provider": str, "model": str, "request": dict, "events": list}
        if place == 0 or not isinstance(line, dict):
            raise self._foreign("no recording of nbllm's")
        if any(not isinstance(line.get(name), kind) for name, kind in wanted.items()):
            raise self._foreign("a line without its fields")
        return line

    def _foreign(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.path.name} holds {what}.", hint="Record it anew: %llm record, or nbllm.record(path)."
        )

    def _missing(self, about: Told) -> ConfigError:
        """The error for a request that was not recorded."""
        mine = dict(_leaves({"provider": about.provider, **about.request}))
        nearest: tuple[int, int, str] | None = None
        for number, (_, line) in enumerate(self._lines(), 1):
            theirs = dict(_leaves({"provider": line["provider"], **line["request"]}))
            odd = [p for p in (*mine, *theirs) if mine.get(p, _NOTHING) != theirs.get(p, _NOTHING)]
            if odd and (nearest is None or len(odd) < nearest[0]):
                nearest = len(odd), number, _difference(odd[0], mine, theirs)
        where = f" The nearest is call {nearest[1]}: {nearest[2]}." if nearest else " It has no calls."
        return ConfigError(
            f"This request is not in {self.path.name}.{where}",
            hint="Nothing was sent. Record it anew (%llm record), or end the replay (%llm replay off).",
        )


def _told_error(error: NbllmError, secrets: Sequence[str]) -> dict[str, Any]:
    found = {
        n: v for n, v in vars(error.scrub_secrets(secrets)).items() if isinstance(v, _OF_ERROR.get(n, ()))
    }
    return {"error": type(error).__name__, **found}


def _as_error(told: Any) -> NbllmError:
    """The error of which that was told; what is odd in it is left out."""
    told = told if isinstance(told, dict) else {}
    kind = getattr(errors, str(told.get("error")), None)
    kind = kind if isinstance(kind, type) and issubclass(kind, NbllmError) else NbllmError
    known = {n: v for n, v in told.items() if isinstance(v, _OF_ERROR.get(n, ()))}
    made = kind.__new__(kind, known.get("message", ""))
    vars(made).update(vars(errors.ProviderError("")) | {"which": "total", "seconds": 0.0} | known)
    return made


_NOTHING = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What stands in a JSON value, by its path; what is deeper than any request of ours, as text."""
    if path.count(".") + path.count("[") < 64 and isinstance(value, dict) and value:
        for k, v in value.items():
            yield from _leaves(v, f"{path}.{k}" if path else str(k))
    elif path.count(".") + path.count("[") < 64 and isinstance(value, list) and value:
        for i, v in enumerate(value):
            yield from _leaves(v, f"{path}[{i}]")
    else:
        yield path, value if isinstance(value, (str, int, float, bool, type(None))) else str(value)[:1000]


def _difference(path: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    def shown(of: Mapping[str, Any]) -> str:
        more = any(name.startswith((f"{path}.", f"{path}[")) for name in of)
        return repr(of[path])[:60] if path in of else "other values" if more else "nothing"

    return f"at {path[:200]} it has {shown(theirs)}, this one {shown(mine)}"


def _time(at: Any) -> float:
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
        raise ValueError("a time that is none")
    return min(max(0.0, float(at)), _LATEST)


def _unusable(path: Path, done: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"The recording {path} cannot be {done}: {error.strerror or error}.",
        hint="`%llm record` makes one." if done == "read" else "Choose another file.",
    )


def beside(notebook: str = "", *, there: bool = False) -> Path:
    """The file of a notebook's calls. notebook: its path, or what Jupyter says where it is "". there: it must
    be there, which is the one of this folder where the notebook is not known. Raises ConfigError."""
    name = notebook or os.environ.get("JPY_SESSION_NAME", "")
    if name.endswith(".ipynb"):
        return Path(name).with_suffix(SUFFIX) if notebook else Path(Path(name).name).with_suffix(SUFFIX)
    found = sorted(Path.cwd().glob(f"*{SUFFIX}"))
    if there and len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ConfigError(
            f"Which recording? There are here: {names[:200]}.", hint="Name it: %llm replay FILE."
        )
    return found[0] if there else Path(f"calls{SUFFIX}")
