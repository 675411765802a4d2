"""Full-text search in stored prompts and answers, by SQLite's FTS5.

The index is built in memory for each search, from the rows that are searched: so none of it is on disk or
outdated, and a row that another kernel has just written is found. A query consists of words, and is never
interpreted as FTS5 syntax: a row matches if it has all of them, each as a word or as the beginning of one. In
scripts without spaces between words, and for emoji, each character is a word, and a word of the query is a
sequence of them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence

from ..core.errors import ConfigError
from .chunks import Row

_UNSPACED = (  # scripts without word spaces, and emoji
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\u2600-\u27bf\U0001f300-\U0001faff]"
)
_MAX_WORDS = 50  # words of a query that are used
_TOKENS = "unicode61 remove_diacritics 2 categories ''L* N* Co So''"
_TABLE = f"create virtual table texts using fts5(words, tokenize = '{_TOKENS}')"
_FIND = (
    "select rowid, snippet(texts, 0, '[', ']', '...', 16) from texts where texts match ? "
    "order by rank, rowid desc limit ?"
)


def search(rows: Sequence[Row], words: Iterable[str], limit: int) -> list[tuple[Row, str]]:
    """The at most `limit` best rows whose prompt and answer have all the words, each with an excerpt around
    them. Raises ConfigError where this Python's SQLite has no full-text search."""
    import sqlite3

    separated = (_separate_characters(word).strip() for word in [*words][:_MAX_WORDS])
    query = " ".join(f'"{word}" *' for word in separated if word)
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        try:
            db.execute(_TABLE)
        except sqlite3.OperationalError:
            raise ConfigError(
                "This Python's SQLite has no full-text search (FTS5).",
                hint="%llm log has the texts as columns; search them with pandas.",
            ) from None
        db.executemany("insert into texts (rowid, words) values (?, ?)", _index_rows(rows))
        found = db.execute(_FIND, (query or '""', limit)).fetchall()
    return [(rows[number], _join_characters(snippet)) for number, snippet in found]


def _index_rows(rows: Sequence[Row]) -> Iterator[tuple[int, str]]:
    for number, row in enumerate(rows):
        if row.get("prompt") or row.get("answer"):
            yield (
                number,
                _separate_characters(f"{_prompt_text(row.get('prompt'))}\n{row.get('answer') or ''}"),
            )


def _prompt_text(prompt: str | None) -> str:
    """The text of a stored prompt."""
    try:
        return "\n".join(str(message["text"]) for message in json.loads(prompt or "[]"))
    except (ValueError, TypeError, KeyError, RecursionError):  # another format
        return str(prompt)


def _separate_characters(text: str) -> str:
    """The text for the index, without characters that SQLite cannot store or that end a quoted word."""
    plain = text.replace("\0", " ").replace('"', " ").encode("utf-8", "replace").decode()
    return re.sub(_UNSPACED, r" \g<0> ", plain)


def _join_characters(snippet: str) -> str:
    return " ".join(re.sub(rf"(?<={_UNSPACED}) {{1,2}}|(?<! ) (?={_UNSPACED})", "", snippet).split())
