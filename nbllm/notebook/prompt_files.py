"""Prompts stored with a project: `prompts/NAME.md`, with a header of options between two `---` lines.

    ---
    description: what a customer thinks of us
    temperature: 0
    schema: sentiment str, topics list
    ---
    Classify this review: {text}

A cell uses it by use=NAME, with its options as defaults. The file comes with a project, which may be
anybody's: so it must be a regular file of that folder, cannot choose a model, key, address or tool, and its
`{{expressions}}` are not run.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, similar_names
from ..core.template import find_expressions, parameters_in
from ..routing.config_files import nearest_pyproject
from ..routing.files import read_small_file, write_atomic
from .session import Session
from .syntax.options import OPTIONS
from .syntax.parser import parse
from .view.hidden import clean_and_count

FOLDER = "prompts"
_NAME = re.compile(r"[^\W\d][\w\-]{0,79}")
_HEAD = re.compile(r"---[ \t]*\n(.*?)^---[ \t]*(?:\n|\Z)(.*)", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"([A-Za-z_][\w.]*)[ \t]*:[ \t]*(.*)")
_QUOTED = re.compile(r"([\"'])(.*)\1")
# Options that a prompt file may set: those that a project may set, and the form of the answer.
_ALLOWED_OPTIONS = {n for n, o in OPTIONS.items() if o.project and o.default and o.kind} - {
    "model",
    "use",
    "cache",
} | {
    "schema",
    "as",
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A stored prompt. path: None for a prompt of this session only. header_text: the lines between the two
    ---; header: their entries, options for a cell and a `description`."""

    name: str
    text: str
    path: Path | None = None
    header: Mapping[str, str] = field(default_factory=dict)
    header_text: str = ""

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits of the SHA-256 of the text without surrounding white space."""
        return hashlib.sha256(self.text.strip().encode()).hexdigest()[:12]

    @property
    def options(self) -> dict[str, Any]:
        """The options for the cell. Raises ConfigError, with the file's name, for an option that is not
        allowed."""
        found: dict[str, Any] = {}
        for name, value in self.header.items():
            if name == "description":
                continue
            if name not in _ALLOWED_OPTIONS:
                near = similar_names(name, _ALLOWED_OPTIONS)
                raise ConfigError(
                    f"{FOLDER}/{self.name}.md cannot set {name!r}"
                    + (f": did you mean {near[0]}?" if near else "."),
                    hint=f"A prompt file can set description, {', '.join(sorted(_ALLOWED_OPTIONS))}. "
                    "Set other options in the cell.",
                )
            quoted = value if value[:1] in "{[" else '"' + value.replace('"', '""') + '"'
            try:
                found |= parse(f"{name}={quoted}").options
            except ConfigError as error:
                raise ConfigError(f"{FOLDER}/{self.name}.md: {error.message}", hint=error.hint) from None
        return found


def prompts_folder() -> Path:
    """The project's folder of prompts: beside its pyproject.toml, otherwise in the working folder."""
    project = nearest_pyproject(Path.cwd())
    return (project.parent if project else Path.cwd()) / FOLDER


def read_prompt(name: str) -> Prompt | None:
    """The prompt in a file; None if there is no file. Raises ConfigError for a file that cannot be read."""
    path = prompts_folder() / f"{name}.md"
    if not _NAME.fullmatch(name) or not os.path.lexists(path):
        return None
    try:
        if path.is_symlink() or path.parent.is_symlink():
            raise OSError(f"{path.name} is a link")
        text = read_small_file(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{FOLDER}/{path.name} cannot be read: {error}.", hint="A prompt is a small UTF-8 text file."
        ) from None
    return parse_prompt(name, text.replace("\r\n", "\n"), path)


def parse_prompt(name: str, text: str, path: Path | None = None) -> Prompt:
    """The prompt in a file's text. Raises ConfigError for a header line that is not `name: value`."""
    head = _HEAD.fullmatch(text)
    if head is None:
        return Prompt(name, text, path)
    header: dict[str, str] = {}
    for number, line in enumerate(head[1].splitlines(), 2):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None or match[1] in header:
            raise ConfigError(
                f"{FOLDER}/{name}.md, line {number}, "
                + (f"repeats {match[1]}." if match else "is not `name: value`."),
                hint="Lines between the two --- are options such as temperature: 0.",
            )
        quoted = _QUOTED.fullmatch(match[2])
        header[match[1]] = quoted[2] if quoted else match[2]
    return Prompt(name, head[2], path, header, head[1])


def write_prompt(name: str, text: str) -> Prompt:
    """Writes a prompt's text; the header of an existing file is kept. Raises ConfigError if that fails."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name[:40]!r} is not a valid name for a prompt.",
            hint=f"save={FOLDER}/NAME has letters, digits, _ and -.",
        )
    existing = read_prompt(name)
    path = prompts_folder() / f"{name}.md"
    head = existing.header_text if existing else ""
    try:
        write_atomic(path, (f"---\n{head}---\n" if head else "") + text.rstrip("\n") + "\n")
        path.chmod(0o644)
    except OSError as error:
        raise ConfigError(f"{FOLDER}/{path.name} cannot be written: {error.strerror or error}.") from None
    return Prompt(name, text, path, existing.header if existing else {}, head)


def all_prompts(session: Session) -> tuple[list[Prompt], list[ConfigError]]:
    """(all stored prompts, those of this session first; the errors of files that cannot be read)."""
    found, problems = [Prompt(name, text) for name, text in session.fragments.items()], []
    for file in sorted(prompts_folder().glob("*.md")) if prompts_folder().is_dir() else []:
        try:
            prompt = read_prompt(file.stem) if file.stem not in session.fragments else None
        except ConfigError as error:
            problems.append(error)
            continue
        found += [prompt] if prompt else []
    return found, problems


def used_prompts(session: Session, used: str) -> tuple[Prompt, ...]:
    """The prompts that use= names, separated by commas. Raises ConfigError for an unknown one, with the
    nearest name."""
    return tuple(
        _find_prompt(session, n.strip().removeprefix(f"{FOLDER}/")) for n in used.split(",") if n.strip()
    )


def _find_prompt(session: Session, name: str) -> Prompt:
    if name in session.fragments:
        return Prompt(name, session.fragments[name])
    if (found := read_prompt(name)) is not None:
        return found
    names = [p.name for p in all_prompts(session)[0]]
    near = similar_names(name, names)
    raise ConfigError(
        f"No prompt is called {name!r}" + (f": did you mean {near[0]}?" if near else "."),
        hint=f"There are: {', '.join(names) or 'none yet'}. A cell with save=NAME stores one, "
        f"save={FOLDER}/NAME in the project.",
    )


def join_prompts(
    session: Session, prompts: Sequence[Prompt], body: str, mode: str, *, any_name: bool = False
) -> str:
    """The texts of prompts, followed by the cell's own.

    Raises ConfigError if an `{{expression}}` comes from a file. any_name: every name may be known later, as
    the parameters of def= are.
    """
    text, file_spans = "", []
    for prompt in prompts:
        if prompt.path is not None:
            file_spans.append((len(text), len(text) + len(prompt.text.strip()), prompt))
        text += prompt.text.strip() + "\n\n"
    text += body
    for start, end in (
        find_expressions(text, None if any_name else session.prompt_variables, mode) if file_spans else ()
    ):
        for first, last, prompt in file_spans:
            if start < last and end > first:
                raise ConfigError(
                    f"{FOLDER}/{prompt.name}.md has {text[start:end][:60]!r}, which would run as Python.",
                    hint="Prompts in files take values as {name} only: compute it in a cell. fill=off sends "
                    "braces as they are.",
                )
    return text


def version_label(prompts: Sequence[Prompt]) -> str:
    """The label of calls with these prompts in the log: NAME@VERSION, joined by +."""
    return "+".join(f"{p.name}@{p.version}" for p in prompts)


# --- %llm prompt --------------------------------------------------------------------------------------------


def command(session: Session, rest: str) -> Any:
    """The subcommands list, show NAME, diff NAME, edit NAME, forget NAME."""
    word, *names = rest.split() or ["list"]
    if word == "list" and not names:
        return _list(session)
    if word not in _WORDS or len(names) != 1:
        raise ConfigError(
            f"%llm prompt has no {rest[:40]!r}.", hint="list, show NAME, diff NAME, edit NAME, forget NAME."
        )
    return _WORDS[word](session, _find_prompt(session, names[0].removeprefix(f"{FOLDER}/")))


def _list(session: Session) -> Any:
    import pandas as pd

    found, problems = all_prompts(session)
    for problem in problems:
        session.print_text(f"Left out: {problem.message}")
    rows = [
        {
            "prompt": p.name,
            "version": p.version,
            "takes": ", ".join(parameters_in(p.text, session.namespace)[0]),
            "kept": f"{FOLDER}/{p.name}.md" if p.path else "this session",
            "description": p.header.get("description") or " ".join(p.text.split())[:60],
        }
        for p in found
    ]
    return pd.DataFrame(rows, columns=["prompt", "version", "takes", "kept", "description"]).set_index(
        "prompt"
    )


def _show(session: Session, prompt: Prompt) -> str:
    header = "".join(f"{name}: {value}\n" for name, value in prompt.header.items())
    return f"{version_label([prompt])}\n{header}\n{prompt.text.strip()}"


def _edit(session: Session, prompt: Prompt) -> str:
    target = f"{FOLDER}/{prompt.name}" if prompt.path else prompt.name
    shown, hidden = clean_and_count(prompt.text.strip())
    session.shell.set_next_input(f"%%llm save={target}\n{shown}", replace=False)
    more = f" Hidden characters ({hidden}) are shown as ⟨U+...⟩." if hidden else ""
    return f"{prompt.name} is in the next cell; run it to save the new text.{more}"


def _forget(session: Session, prompt: Prompt) -> str:
    if prompt.path is not None:
        raise ConfigError(f"{FOLDER}/{prompt.name}.md is a file of the project.", hint="Delete the file.")
    del session.fragments[prompt.name]
    return f"Prompt {prompt.name} was deleted."


def _diff(session: Session, prompt: Prompt) -> str:
    """The changes since the last commit; for a session's prompt, the difference to its file."""
    if prompt.path is None:
        filed = read_prompt(prompt.name)
        before, where = (filed.text if filed else None), f"{FOLDER}/{prompt.name}.md"
    else:
        before, where = _committed_text(prompt.path), "the last commit"
        before = parse_prompt(prompt.name, before).text if before is not None else None
    if before is None:
        return f"{prompt.name} is not in {where}."
    lines = difflib.unified_diff(
        before.strip().splitlines(), prompt.text.strip().splitlines(), where, prompt.name, lineterm="", n=2
    )
    return "\n".join(lines) or f"{prompt.name} is the same as in {where}."


def _committed_text(path: Path) -> str | None:
    """A file's text in the last commit; None if there is none. Only the object is read: nothing that a
    repository's configuration names is run or fetched."""
    git = shutil.which("git")
    if git is None:
        return None
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    try:
        found = subprocess.run(  # noqa: S603 - the name was checked by read()
            [git, "cat-file", "blob", f"HEAD:./{path.name}"],
            cwd=path.parent,
            env={
                **environment,
                "GIT_NO_LAZY_FETCH": "1",
                "GIT_OPTIONAL_LOCKS": "0",
                "GIT_TERMINAL_PROMPT": "0",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.decode("utf-8", "replace") if found.returncode == 0 else None


_WORDS = {"show": _show, "diff": _diff, "edit": _edit, "forget": _forget}
