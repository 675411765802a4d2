"""Recordings of calls and their answers in a file beside the notebook, `NAME.llm.jsonl`, from which the
notebook runs again without keys and connections; one line per call.

A line has our request (pictures as their hash), its hash, the events with their times in seconds, and the
error, if there was one. It holds no HTTP header and no secret of the request. A recording may come from
somebody else: lines are limited in size, every field is checked, and its answers are handled like any others.
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
from .answers import cacheable_events

SUFFIX = ".llm.jsonl"
_MAX_LINE = 64 * 2**20  # bytes of a line
_HEAD = b'{"nbllm"'
_MAX_TIME = 86_400.0  # seconds; the largest time of an event
_PRIVATE = r"(?i)key|token$|secret|passw|authorization|credential|cookie"
_LOOP_EVENTS = (StepEnded, ToolStarted, ToolEnded)  # events of the tool loop, never of an answer
# The fields of an error that are recorded: neither the provider's raw body nor the address.
_ERROR_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("message", "hint", "type", "code", "which"), str),
    "status": int,
    "seconds": (int, float),
}


class RecordedRequest(msgspec.Struct, frozen=True):
    """A request without secrets, as it is recorded; its hash; the provider and the model."""

    provider: str
    model: str
    request: Mapping[str, Any]
    hash: str


class RecordedAnswer(msgspec.Struct, frozen=True):
    """A recorded answer: (seconds since the call, event); by: [provider, model] that answered; the error, if
    there was one."""

    events: tuple[tuple[float, Event], ...]
    by: Any
    simulated: bool = False
    error: NbllmError | None = None


def to_recorded_request(request: Request, provider: str, secrets: Sequence[str]) -> RecordedRequest:
    """The recorded form of a request. Raises ConfigError for a value that has no JSON form."""
    plain = to_plain(request)
    private = {"extra": _mask_by_name(plain["extra"])} if "extra" in plain else {}
    plain = _mask({**plain, **private}, lambda text: scrub(text, secrets))
    provider = scrub(provider, secrets)
    return RecordedRequest(provider, request.model, plain, digest([VERSION, provider, plain]))


def _mask(value: Any, masked: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        is_file = value.get("type") in ("Image", "Document")
        return {k: _sha256(v) if is_file and k == "data" else _mask(v, masked) for k, v in value.items()}
    if isinstance(value, list):
        return [_mask(v, masked) for v in value]
    return masked(value) if isinstance(value, str) else value


def _mask_by_name(value: Any, name: str = "") -> Any:
    """Parameters that are passed through to the provider, with texts masked whose names are secret."""
    if isinstance(value, dict):
        return {k: _mask_by_name(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [_mask_by_name(v, name) for v in value]
    return MASK if isinstance(value, str) and re.search(_PRIVATE, name) else value


def _sha256(data: Any) -> str:
    return f"sha256:{sha256(str(data).encode('utf-8', 'replace')).hexdigest()}"


class Recording:
    """A file to which calls are written. The first call creates it, and renames an existing one to NAME.old.
    Any thread may use it. Raises ConfigError where it cannot be written, or is not a recording."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock, self._numbers = threading.Lock(), Counter[str]()
        self._new, self.problem = True, ""  # why the last call was not recorded
        try:
            if path.exists() and path.stat().st_size:
                Tape(path)  # raises for any other file
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise PermissionError(0, "it or its folder does not exist or is not writable")
        except OSError as error:
            raise _file_error(path, "written", error) from None

    def add(
        self,
        request: RecordedRequest,
        events: Sequence[tuple[float, Event]],
        secrets: Sequence[str],
        simulated: bool,
        *,
        by: RecordedRequest | None = None,
        failed: NbllmError | None = None,
    ) -> str:
        """Records a call; returns why it was not recorded, "" where it was. by: the request that was
        answered, if it is another one; failed: the error that ended the answer."""
        end = [Finished("other")] if failed else []  # an answer before an error counts as complete
        recorded = cacheable_events([*(event for _, event in events), *end], secrets, any_reason=True)
        if not recorded:
            return "This answer is not in the recording: it is incomplete, or contains a key."
        times = {id(event): at for at, event in events}
        with self._lock:
            self._numbers[request.hash] += 1
            line = {
                "hash": request.hash,
                "n": self._numbers[request.hash],
                "provider": request.provider,
                "model": request.model,
                **({"by": [by.provider, by.model]} if by else {}),
                "simulated": simulated,
                "request": request.request,
                "events": [[round(times[id(e)], 4), to_plain(e)] for e in recorded if id(e) in times],
                **({"error": _error_fields(failed, secrets)} if failed else {}),
            }
            try:
                if self._new:
                    self._start_file()
                self._append(line)
            except OSError as error:
                return f"This answer is not in the recording: {error.strerror}."
        return ""

    def _start_file(self) -> None:
        if self.path.exists() and self.path.stat().st_size:
            os.replace(self.path, self.path.with_name(self.path.name + ".old"))
        self._append({"nbllm": VERSION, "recording": 1})
        self._new = False

    def _append(self, line: Mapping[str, Any]) -> None:
        data = (json.dumps(line, sort_keys=False, separators=(",", ":")) + "\n").encode("ascii")
        if len(data) > _MAX_LINE:
            raise OSError(0, f"it is longer than {_MAX_LINE >> 20} MiB")
        with open(self.path, "ab", buffering=0) as file:
            file.write(data)


class Tape:
    """A recording for replay. pace: "now", or "recorded" for the recorded times. Equal requests get their
    answers in the order of recording, and the last one again after that; an error is skipped where an answer
    to the same request follows it. Raises ConfigError for a file that cannot be read."""

    def __init__(self, path: Path, pace: str = "now") -> None:
        if pace not in ("now", "recorded"):
            raise ConfigError(f"There is no pace {pace[:40]!r}.", hint="Use pace=now or pace=recorded.")
        self.path, self.pace = path, pace
        self._lock, self._offsets, self._n_played = threading.Lock(), dict[str, list[int]](), Counter[str]()
        self.first = ""  # provider/model of the first call: what "auto" meant
        failed = set[int]()  # offsets of lines with errors
        for offset, line in self._lines():
            offsets = self._offsets.setdefault(line["hash"], [])
            failed |= {offset} if "error" in line else set()
            while offsets and "error" not in line and offsets[-1] in failed:
                offsets.pop()
            offsets.append(offset)
            self.first = self.first or f"{line['provider']}/{line['model']}"

    @property
    def calls(self) -> int:
        """The number of recorded calls."""
        return sum(map(len, self._offsets.values()))

    def has(self, request: RecordedRequest) -> bool:
        """Whether a request was recorded."""
        return request.hash in self._offsets

    def answer(self, request: RecordedRequest) -> RecordedAnswer:
        """The next answer to a request. Raises ConfigError where none was recorded; it names the most similar
        request and the difference."""
        offsets = self._offsets.get(request.hash)
        if not offsets:
            raise self._not_recorded(request)
        with self._lock:
            number = min(self._n_played[request.hash], len(offsets) - 1)
            self._n_played[request.hash] += 1
        _, line = next(self._lines(offsets[number]))
        try:
            events = tuple((_parse_time(at), from_plain(event, Event)) for at, event in line["events"])
        except (ProtocolError, ValueError, TypeError) as error:
            raise self._invalid(f"an answer that nbllm did not write ({error})") from None
        failed = line.get("error")
        is_complete = failed is not None or (bool(events) and isinstance(events[-1][1], Finished))
        if not is_complete or any(isinstance(e, _LOOP_EVENTS) for _, e in events):
            raise self._invalid("an incomplete answer")
        by = line.get("by") or [line["provider"], line["model"]]
        return RecordedAnswer(
            events, by, line.get("simulated") is True, None if failed is None else _parse_error(failed)
        )

    def _lines(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(offset, line) of each line from `offset` on. A last line that a kill cut off is ignored; one that
        only lacks its line break is not."""
        try:
            with open(self.path, "rb") as file:
                file.seek(offset)
                while data := file.readline(_MAX_LINE + 1):
                    if len(data) > _MAX_LINE:
                        raise self._invalid(f"a line of more than {_MAX_LINE >> 20} MiB")
                    try:
                        line = self._parse_line(data, offset)
                    except ConfigError:
                        if data.endswith(b"\n") or not (offset or _HEAD.startswith(data[: len(_HEAD)])):
                            raise
                        return
                    if line is not None:
                        yield offset, line
                    offset += len(data)
        except OSError as error:
            raise _file_error(self.path, "read", error) from None

    def _parse_line(self, data: bytes, offset: int) -> dict[str, Any] | None:
        try:
            line = json.loads(data)
        except (ValueError, RecursionError):
            raise self._invalid("a line that is not JSON") from None
        if isinstance(line, dict) and offset == 0 and line.get("recording") == 1:
            check_version(line.get("nbllm"))
            return None
        types = {"hash": str, "provider": str, "model": str, "request": dict, "events": list}
        if offset == 0 or not isinstance(line, dict):
            raise self._invalid("something other than a recording of nbllm")
        if any(not isinstance(line.get(name), kind) for name, kind in types.items()):
            raise self._invalid("a line with missing fields")
        return line

    def _invalid(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self.path.name} holds {what}.", hint="Record it again: %llm record, or nbllm.record(path)."
        )

    def _not_recorded(self, request: RecordedRequest) -> ConfigError:
        """The error for a request that was not recorded."""
        mine = dict(_leaves({"provider": request.provider, **request.request}))
        nearest: tuple[int, int, str] | None = None
        for number, (_, line) in enumerate(self._lines(), 1):
            theirs = dict(_leaves({"provider": line["provider"], **line["request"]}))
            differing = [p for p in (*mine, *theirs) if mine.get(p, _NOTHING) != theirs.get(p, _NOTHING)]
            if differing and (nearest is None or len(differing) < nearest[0]):
                nearest = len(differing), number, _difference(differing[0], mine, theirs)
        where = f" The most similar is call {nearest[1]}: {nearest[2]}." if nearest else " It has no calls."
        return ConfigError(
            f"This request is not in {self.path.name}.{where}",
            hint="Nothing was sent. Record it again (%llm record), or end the replay (%llm replay off).",
        )


def _error_fields(error: NbllmError, secrets: Sequence[str]) -> dict[str, Any]:
    fields = vars(error.scrub_secrets(secrets)).items()
    return {
        "error": type(error).__name__,
        **{n: v for n, v in fields if isinstance(v, _ERROR_FIELDS.get(n, ()))},
    }


def _parse_error(recorded: Any) -> NbllmError:
    """The recorded error, without invalid fields."""
    recorded = recorded if isinstance(recorded, dict) else {}
    kind = getattr(errors, str(recorded.get("error")), None)
    kind = kind if isinstance(kind, type) and issubclass(kind, NbllmError) else NbllmError
    fields = {n: v for n, v in recorded.items() if isinstance(v, _ERROR_FIELDS.get(n, ()))}
    error = kind.__new__(kind, fields.get("message", ""))
    vars(error).update(vars(errors.ProviderError("")) | {"which": "total", "seconds": 0.0} | fields)
    return error


_NOTHING = object()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of each leaf of a JSON value; values nested deeper than any request of ours as text."""
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


def _parse_time(at: Any) -> float:
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at):
        raise ValueError("an invalid time")
    return min(max(0.0, float(at)), _MAX_TIME)


def _file_error(path: Path, done: str, error: OSError) -> ConfigError:
    return ConfigError(
        f"The recording {path} cannot be {done}: {error.strerror or error}.",
        hint="`%llm record` creates one." if done == "read" else "Choose another file.",
    )


def recording_path(notebook: str = "", *, must_exist: bool = False) -> Path:
    """The recording of a notebook. notebook: its path, "" for the one that Jupyter names. must_exist: where
    the notebook is unknown, the only recording in this folder. Raises ConfigError where there is not exactly
    one."""
    name = notebook or os.environ.get("JPY_SESSION_NAME", "")
    if name.endswith(".ipynb"):
        return Path(name).with_suffix(SUFFIX) if notebook else Path(Path(name).name).with_suffix(SUFFIX)
    found = sorted(Path.cwd().glob(f"*{SUFFIX}"))
    if must_exist and len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise ConfigError(
            f"It is not clear which recording is meant; this folder has: {names[:200]}.",
            hint="Name one: %llm replay FILE.",
        )
    return found[0] if must_exist else Path(f"calls{SUFFIX}")
