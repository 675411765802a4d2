"""`%llm fix` and `%llm insert`: the last error explained and mended, code into the next cell. Nothing is ever run by itself."""

from __future__ import annotations

import difflib
import re
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..messages import Text
from .session import Session
from .view.frontend import where
from .view.markdown import fences
from .view.static import static

if TYPE_CHECKING:
    from ..events import Response

_CELL = re.compile(r"/ipykernel_\d+/\d+\.py$")
_LONGEST = 6_000  # characters of a traceback: its end says most
_PROMPT = """This cell of a Jupyter notebook failed.

```python
{code}
```

It raised:

```
{error}
```

Say in one or two sentences why. Then give the whole cell, corrected, in one ```python fence. Change no more than is needed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that failed: its source, and its traceback as text."""

    code: str
    error: str


def install(session: Session) -> None:
    """Begins to note which cell failed last."""

    def note(result: Any) -> None:
        error = result.error_in_exec or result.error_before_exec
        source = str(getattr(result.info, "raw_cell", "") or "")
        if error is not None and not source.lstrip().startswith(("%llm", "%%llm", "%nbllm", "%%nbllm")):
            session.failure = Failure(source, _told(error))

    session.noting = note
    session.shell.events.register("post_run_cell", note)


def remove(session: Session) -> None:
    """Ends that."""
    if session.noting is not None:
        session.shell.events.unregister("post_run_cell", session.noting)
        session.noting = None


def _told(error: BaseException) -> str:
    """The traceback without IPython's own frames and without values of variables."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/IPython/" not in f.filename.replace("\\", "/")]
    for frame in frames:
        if _CELL.search(frame.filename.replace("\\", "/")):
            frame.filename = "<cell>"  # its file is a temporary one of this machine
    lines = [*traceback.format_list(frames), *traceback.format_exception_only(type(error), error)]
    return "".join(lines)[-_LONGEST:].strip()


def prompt(session: Session) -> tuple[Text, str]:
    """(what asks why the last cell failed, that cell). Raises ConfigError where none has."""
    failure = session.failure
    if failure is None:
        raise ConfigError("No cell has failed yet.", hint="Run the cell that fails, then %llm fix.")
    return Text(_PROMPT.format(code=failure.code.strip(), error=failure.error)), failure.code


def propose(session: Session, code: str, answer: str) -> None:
    """Shows what an answer would change in `code`, and puts the corrected cell below, unrun."""
    proposed = code_in(answer)
    if proposed is not None:
        session.show(_difference(code, proposed))
        session.shell.set_next_input(proposed, replace=False)


def code_in(text: str) -> str | None:
    """The longest fence of an answer, None where it has none."""
    found = [body for _, body in fences(text) if body.strip()]
    return max(found, key=len).strip("\n") if found else None


def _difference(before: str, after: str) -> dict[str, str]:
    lines = difflib.unified_diff(before.strip().splitlines(), after.strip().splitlines(), "your cell", "proposed", lineterm="", n=2)
    text = "\n".join(lines)
    return static(f"```diff\n{text}\n```" if text else "The proposed cell is the same as yours.")


def offer(session: Session, response: Response) -> None:
    """Puts an answer that was asked for as code into the next cell, where a front end can do that; a cell that is run again
    with the same result does not do it again."""
    code = code_in(response.text) or response.text.strip()
    if code and where(session.shell) == "live" and session.offered.get(session.place.cell) != code:
        session.offered[session.place.cell] = code
        session.shell.set_next_input(code, replace=False)


def insert(session: Session, _rest: str) -> str:
    """Puts the code of the last answer into the next cell."""
    if session.last is None:
        raise ConfigError("There is no answer yet.", hint="Ask in a %%llm cell first.")
    code = code_in(session.last.text) or (session.last.text.strip() if session.asked and session.asked.format == "code" else None)
    if code is None:
        raise ConfigError("The last answer holds no code.", hint="Code stands between ``` fences.")
    session.shell.set_next_input(code, replace=False)
    return "The code is in the next cell; it has not been run."
