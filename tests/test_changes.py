"""What tools change in files and cells: seen before it runs, listed afterwards, and taken back."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbllm.client.agent import Question
from nbllm.client.client import Client
from nbllm.core.errors import ConfigError
from nbllm.core.messages import ToolCall
from nbllm.notebook.tool_use import call_bundle
from nbllm.simulator import script
from nbllm.tools.builtin import LIMIT, files
from nbllm.tools.changes import AppliedChange, Change, Journal, maybe_await
from nbllm.tools.mcp_entry import Source, parse_entry
from nbllm.tools.mcp_notebook import change_finder, is_notebook


@pytest.fixture(scope="module")
def client():
    made = Client()
    yield made
    made.close()


@pytest.fixture(name="undo")
def undone(client):
    """Takes back what the last answer changed, or one change."""
    client.changes.entries.clear()
    return lambda number=None: client.run(client.changes.undo(number))


def written(client, folder, *calls, approve="auto"):
    """What comes of an answer that writes files."""
    steps = script(
        [
            {"calls": [{"name": "write_file", "arguments": {"path": p, "text": t}} for p, t in calls]},
            {"text": "Done."},
        ]
    )
    model = f"sim/openai/m@ttft=0,gap=0,{steps}"
    return client.complete("Write.", model, tools=files(folder), approve=approve)


def told(response):
    return [n.text for n in response.notices if n.kind == "tools"]


def test_a_file_goes_back_to_what_it_was(client, undo, tmp_path):
    """What one answer changed, at once: bytes that are no text, a new file, two writes of one file."""
    (tmp_path / "a.bin").write_bytes(b"\xff\r\nold")
    found = written(client, tmp_path, ("a.bin", "one\n"), ("a.bin", "two\n"), ("sub/new.txt", "x"))
    assert ["Changed: a.bin, a.bin, sub/new.txt (`%llm undo` takes it back)."] == told(found)
    assert b"two\n" == (tmp_path / "a.bin").read_bytes()
    assert ["sub/new.txt", "a.bin", "a.bin"] == undo()
    assert b"\xff\r\nold" == (tmp_path / "a.bin").read_bytes()
    assert not (tmp_path / "sub/new.txt").exists()
    with pytest.raises(ConfigError, match="no such change"):
        undo()


def test_the_folders_of_a_new_file_go_with_it(client, undo, tmp_path):
    """Those that were made for it, inner ones first; what was there before stays, and what has something in
    it."""
    (tmp_path / "old").mkdir()
    written(client, tmp_path, ("old/new/deep/a", "1"), ("old/new/b", "1"), ("more/a", "1"))
    (tmp_path / "more/mine").write_text("x")
    assert ["more/a", "old/new/b", "old/new/deep/a"] == undo()
    assert ["more", "more/mine", "old"] == sorted(
        p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")
    )


def test_one_answer_after_another_and_one_change_alone(client, undo, tmp_path):
    """The last answer's first; a number names one of the list."""
    written(client, tmp_path, ("a", "1"), ("b", "1"))
    written(client, tmp_path, ("a", "2"))
    assert ["a"] == undo()
    assert "1" == (tmp_path / "a").read_text()
    assert ["a"] == undo(1)
    assert ["b"] == [m.change.what for m in client.changes.entries]
    for number in (0, 2, 99):
        with pytest.raises(ConfigError, match="no such change"):
            undo(number)


@pytest.mark.parametrize(
    ("mine", "words"),
    [
        ("a", r"a is not as the tool left it, and stays.*Taken back: c, c, b\."),
        ("c", r"c is not as the tool left it, and stays.*Taken back: b, a\."),
        ("abc", r"c, b, a are not as the tool left them, and stay as they are now\.\n"),
    ],
)
def test_what_somebody_else_changed_stays(client, undo, tmp_path, mine, words):
    """It is named, with all that was taken back beside it, whatever the order."""
    written(client, tmp_path, ("a", "1"), ("b", "1"), ("c", "1"), ("c", "2"))
    for name in mine:
        (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=words) as caught:
        undo()
    assert ("abc" == mine) == ("Taken back" not in caught.value.message)
    for name in "abc":
        place = tmp_path / name
        assert (place.read_text() == "mine") if name in mine else not place.exists()


def test_the_question_has_the_difference(client, undo, tmp_path):
    """Beside the whole arguments; refused, nothing is changed and nothing is listed."""
    (tmp_path / "a").write_text("one\ntwo\n")
    asked = []
    found = written(client, tmp_path, ("a", "one\nthree\n"), approve=lambda q: asked.append(q) or False)
    assert ["--- a", "+++ a", "@@ -1,2 +1,2 @@", " one", "-two", "+three"] == asked[0].change.diff.split("\n")
    assert [] == client.changes.entries
    assert [] == told(found)
    both = call_bundle(asked[0])
    assert all("+three" in text and "write_file" in text for text in both.values())


@pytest.mark.slow
def test_a_difference_is_shown_as_text():
    """What a file or a model holds is no markup, and nothing in it hides; a long one is folded."""
    change = Change("<b>", "<script>x</script>\u202e", "<img src=x>" * 2_000, bool, bool)
    both = call_bundle(Question(ToolCall("c", "f", {}, "{}"), files(".")[2], change=change))
    assert "<script" not in both["text/html"]
    assert "<img" not in both["text/html"]
    assert "\u202e" not in "".join(both.values())
    assert "<details" in both["text/html"]


@pytest.mark.parametrize(("path", "text"), [("../x", "a"), (".env", "a"), ("sub", "a"), ("big", "a")])
def test_what_cannot_be_written_or_kept_is_no_change(client, undo, tmp_path, path, text):
    """The call itself says what is wrong; a file that is too long to be kept is not said to come back."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "big").write_bytes(b"x" * (LIMIT + 1))
    written(client, tmp_path, (path, text))
    assert [] == client.changes.entries


def test_many_changes_take_bounded_memory():
    """The oldest are forgotten, never the last."""
    journal = Journal()
    for i in range(500):
        journal.add(AppliedChange(Change(str(i), None, "x", bool, bool), "", i))
    assert [str(i) for i in range(300, 500)] == [m.change.what for m in journal.entries]
    for i in range(3):
        journal.add(AppliedChange(Change(str(i), "x" * 2**26, None, bool, bool), "", i))
    assert ["2"] == [m.change.what for m in journal.entries]


# --- cells ---


class Book:
    """A notebook behind the tools of jupyter-mcp-server, in its words."""

    def __init__(self, *sources):
        self.cells = [["code", s] for s in sources]

    async def __call__(self, tool, arguments):
        return getattr(self, tool)(**arguments)

    def read_cell(self, cell_index, include_outputs):
        if cell_index >= len(self.cells):
            return f"Cell index {cell_index} is out of range. Notebook has {len(self.cells)} cells."
        kind, source = self.cells[cell_index]
        return f"=====Cell {cell_index} | type: {kind} | execution count: N/A=====\n{source}"

    def insert_cell(self, cell_index, cell_type, cell_source):
        at = len(self.cells) if cell_index == -1 else cell_index
        self.cells.insert(at, [cell_type, cell_source])
        return f"Cell inserted successfully at index {at} ({cell_type})!\nNotebook now has ..."

    def overwrite_cell_source(self, cell_index, cell_source):
        self.cells[cell_index][1] = cell_source
        return f"Cell {cell_index} overwritten successfully!"

    def edit_cell_source(self, cell_index, old_string, new_string, replace_all=False):
        source = self.cells[cell_index][1]
        self.cells[cell_index][1] = source.replace(old_string, new_string, -1 if replace_all else 1)
        return f"Cell {cell_index} edited successfully!"

    def delete_cell(self, cell_indices):
        for i in sorted(cell_indices, reverse=True):
            del self.cells[i]
        return "Cell 0 (code) deleted successfully."

    def move_cell(self, source_index, target_index):
        self.cells.insert(target_index, self.cells.pop(source_index))
        return f"Cell moved successfully from index {source_index} to {target_index} (code)."


@st.composite
def calls(draw):
    """(how many cells there are at first, calls that fit what is there)."""
    size = first = draw(st.integers(1, 3))
    found = []
    for _ in range(draw(st.integers(1, 6))):
        tool = draw(
            st.sampled_from(["insert", "overwrite", "edit", "delete", "move"] if size else ["insert"])
        )
        at = st.integers(0, max(size - 1, 0))
        text = draw(st.sampled_from(["", "a", "b\nc", "ab", "x = 1\n\ny"]))
        if tool == "insert":
            kind = draw(st.sampled_from(["code", "markdown"]))
            where = draw(st.sampled_from([-1, *range(size + 1)]))
            found.append(("insert_cell", {"cell_index": where, "cell_type": kind, "cell_source": text}))
            size += 1
        elif tool == "overwrite":
            found.append(("overwrite_cell_source", {"cell_index": draw(at), "cell_source": text}))
        elif tool == "edit":
            about = {"old_string": "a", "new_string": "zz", "replace_all": draw(st.booleans())}
            found.append(("edit_cell_source", {"cell_index": draw(at), **about}))
        elif tool == "delete":
            chosen = draw(st.lists(at, min_size=1, unique=True))
            found.append(("delete_cell", {"cell_indices": chosen}))
            size -= len(chosen)
        else:
            found.append(("move_cell", {"source_index": draw(at), "target_index": draw(at)}))
    return first, found


@given(calls())
def test_any_changes_of_cells_go_back(case):
    """In their reverse order the notebook is what it was."""
    size, todo = case
    book, journal = Book(*(f"cell {'a' * i}" for i in range(size))), Journal()
    before = [[*c] for c in book.cells]

    async def work():
        for tool, arguments in todo:
            change = await change_finder(tool, book)(arguments)
            result = await book(tool, arguments)
            assert await maybe_await(change.holds(result))
            journal.add(AppliedChange(change, result, 1))
        await journal.undo()

    asyncio.run(work())
    assert before == book.cells


def test_a_cell_that_was_changed_since_stays():
    """By hand, or by what stands above it now."""
    book, journal = Book("a", "b"), Journal()

    async def work():
        change = await change_finder("overwrite_cell_source", book)({"cell_index": 1, "cell_source": "mine"})
        assert "-b\n+mine" in change.diff
        result = await book("overwrite_cell_source", {"cell_index": 1, "cell_source": "mine"})
        journal.add(AppliedChange(change, result, 1))
        book.cells.insert(0, ["code", "new"])
        await journal.undo()

    with pytest.raises(ConfigError, match="cell 1 is not as the tool left it"):
        asyncio.run(work())
    assert ["new", "a", "mine"] == [c[1] for c in book.cells]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["jupyter-mcp-server", "start"], True),
        (["/a/bin/jupyter-mcp-server", "start"], True),
        (["uvx", "jupyter-mcp-server@latest"], True),
        (["npx", "other"], False),
    ],
)
def test_which_server_has_cells(words, expected, tmp_path):
    """By the command that was allowed; a tool that changes no cell has no change."""
    entry = parse_entry(
        "any", {"command": words[0], "args": words[1:]}, Source("s", tmp_path, trusted=True), {}
    )
    assert expected == is_notebook(entry)
    assert change_finder("read_cell", Book("a")) is change_finder("execute_cell", Book("a")) is None
