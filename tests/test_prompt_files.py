"""Prompts that live in the project: files with a head, versions, and what a stranger's file may not do."""

import subprocess

import pytest

from nbllm.core.errors import ConfigError
from nbllm.notebook import prompt_files
from nbllm.notebook.prompt_files import parse_prompt

from .kernels import Kernel

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project's folder, in git."""
    folder = tmp_path_factory.mktemp("project")
    git(folder, "init", "-q")
    (folder / "pyproject.toml").write_text("")
    (folder / "prompts").mkdir()
    return folder


@pytest.fixture(scope="module")
def kernel(project):
    (project / "notebooks").mkdir()
    with Kernel() as kernel:
        kernel.run(f"import os; os.chdir({str(project / 'notebooks')!r}); thing = 'rain'")
        kernel.run("import nbllm.notebook.prompt_files")
        yield kernel


@pytest.fixture(autouse=True)
def praise(project):
    """The one file that every test finds."""
    for file in (project / "prompts").iterdir():
        file.unlink()
    (project / "prompts" / "praise.md").write_text("Praise {thing}.\n")


SEED = """__import__('json').loads(get_ipython().run_line_magic('llm', 'log all').params.iloc[-1])['seed']"""


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example", *words], cwd=folder, check=True)


def refused(kernel, cell):
    ran = kernel.run(cell)
    assert not ran.ok
    return "".join(ran.error["traceback"])


# --- the file -----------------------------------------------------------------------------------------------

HEADS = [
    ("Say {x}.", {}, "Say {x}."),
    ("---\ntemperature: 0\n---\nSay {x}.", {"temperature": 0.0}, "Say {x}."),
    ("---\n# why\n\ndescription: a: b\nmax_tokens : 7\n---\n\nx", {"max_tokens": 7}, "\nx"),
    ("---\nsystem: \"Be 'kind'\"\n---\nx", {"system": "Be 'kind'"}, "x"),
    ('---\nsystem: Say "no"\n---\nx', {"system": 'Say "no"'}, "x"),
    ("---\nschema: name, age int\n---\nx", {"schema": "name, age int"}, "x"),
    ('---\nschema: {"type": "object"}\n---\nx', {"schema": '{"type": "object"}'}, "x"),
    ("--- \ntemperature: 0\n---", {"temperature": 0.0}, ""),
    ("a\n---\ntemperature: 0\n---\n", {}, "a\n---\ntemperature: 0\n---\n"),
    ("---\nno end", {}, "---\nno end"),
    ("---\n---\nx", {}, "x"),
]


@pytest.mark.parametrize(("text", "options", "body"), HEADS)
def test_a_head_says_options(text, options, body):
    prompt = parse_prompt("p", text)
    assert (options, body) == (prompt.options, prompt.text)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("temprature: 0", "temperature?"),
        ("temperature: hot", "needs a number"),
        ("model: evil/x", "cannot set 'model'"),
        ("base_url: https://evil.example", "cannot set 'base_url'"),
        ("key: OPENAI_API_KEY", "cannot set 'key'"),
        ("tools: python", "cannot set 'tools'"),
        ("approve: auto", "cannot set 'approve'"),
        ("attach: /etc/passwd", "cannot set 'attach'"),
        ("out: pd", "cannot set 'out'"),
        ("bg: true", "cannot set 'bg'"),
        ("- a list", "line 2"),
        ("seed: 1\nseed: 2", "line 3"),
    ],
)
def test_a_head_that_says_what_it_may_not_is_refused_by_name(line, words):
    with pytest.raises(ConfigError, match=r"prompts/p\.md") as caught:
        _ = parse_prompt("p", f"---\n{line}\n---\nx").options
    assert words in f"{caught.value.message} {caught.value.hint}"


def test_a_version_is_of_the_text_alone():
    """Blanks around it and what its head says change nothing."""
    versions = {
        parse_prompt("p", t).version for t in ("Say {x}.", "\nSay {x}.\n", "---\nseed: 1\n---\nSay {x}.")
    }
    assert len(versions) == 1
    assert versions != {parse_prompt("p", "Say {y}.").version}


# --- in cells -----------------------------------------------------------------------------------------------


def test_a_cell_keeps_its_text_in_the_project_and_another_uses_it(kernel, project):
    ran = kernel.run("%%llm save=prompts/kept\nPraise {thing}.")
    assert "prompts/kept.md" in ran.text
    assert "Praise {thing}.\n" == (project / "prompts" / "kept.md").read_text()
    assert kernel.run("%%llm sim/openai@echo=1 use=kept out=a\nIn short.").ok
    assert "Praise rain.\n\nIn short." == kernel.value("a.text")


def test_its_head_gives_the_cell_options_which_the_cell_may_say_otherwise(kernel, project):
    file = project / "prompts" / "sorted.md"
    file.write_text("---\ndescription: sorts\nschema: kind str\nseed: 3\n---\nWhat is it?\n")
    assert kernel.run("%%llm sim/openai use=sorted out=a\nA lamp.").ok
    assert [["kind"], 3] == kernel.value(f"[list(__import__('json').loads(a.text)), {SEED}]")
    assert kernel.run("%%llm sim/openai use=sorted seed=4 out=a\nA lamp.").ok
    assert 4 == kernel.value(SEED)
    assert kernel.run("%%llm save=prompts/sorted\nWhat is this?").ok
    assert "description: sorts\nschema: kind str\nseed: 3\n---\nWhat is this?\n" in file.read_text()


def test_what_a_prompt_cost_is_told_by_its_version(kernel, project):
    """In cells, functions and rows; a label of the cell's own comes first."""
    file = project / "prompts" / "praise.md"
    file.write_text("Praise {thing} aloud.\n")  # no other test's version
    kernel.run("from nbllm.notebook.prompt_files import read_prompt, version_label")
    label = kernel.value("version_label([read_prompt('praise')])")
    assert kernel.run("%%llm sim/openai label=mine use=praise\nx").ok
    assert kernel.run("%%llm sim/openai use=praise\nx").ok
    assert kernel.run("%llm ask -m sim/openai use=praise def=f").ok
    assert kernel.run("f('x'); import pandas as pd; rows = pd.DataFrame({'thing': ['a', 'b']})").ok
    assert kernel.run("%llm ask -m sim/openai use=praise each=rows").ok
    kernel.run("table = %llm cost by=label")
    calls = kernel.value("table.calls.to_dict()")
    assert 1 == calls["mine"]
    assert calls[label] == 4, "a cell, a function, two rows"


def test_it_becomes_a_function(kernel):
    assert kernel.run("%llm ask -m sim/openai@echo=1 use=praise def=praise").ok
    assert "Praise snow." == kernel.value("praise('snow').text.strip()")


def test_list_show_diff_edit(kernel, project):
    (project / "prompts" / "sorted.md").write_text("Sort {these}.")
    git(project, "add", ".")
    git(project, "commit", "-qm", "one")
    assert "as in the last commit" in kernel.run("%llm prompt diff praise").text
    kernel.run("%%llm save=prompts/praise\nPraise {thing} well.")
    told = kernel.run("%llm prompt diff praise").text
    assert "-Praise {thing}." in told
    assert "+Praise {thing} well." in told
    kernel.run("%%llm save=tone\nBe kind to {whom}.")
    kernel.run("table = %llm prompt list")
    told = kernel.value("table.to_string()")
    assert ["tone", "praise", "sorted"] == [line.split()[0] for line in told.splitlines()[2:]]
    assert "this session" in told
    assert "whom" in told
    assert "Praise {thing} well." in kernel.run("%llm prompt show praise").text
    ran = kernel.run("%llm prompt edit praise")
    assert ["%%llm save=prompts/praise\nPraise {thing} well."] == [
        p["text"] for p in ran.reply["content"]["payload"]
    ]
    assert "deleted" in kernel.run("%llm prompt forget tone").text
    assert "did you mean praise" in refused(kernel, "%llm prompt show prase")
    assert "list, show" in refused(kernel, "%llm prompt burn praise")


# --- a stranger's files -------------------------------------------------------------------------------------

EVIL = [
    "{{open('/tmp/x')}}",
    "{{ (lambda: 1)() }}",
    "a{{__import__('os')}}",
    "${{__import__('os')}}",
    "`{{__import__('os')}}`",
    "{{ [x for x in (",
]


@pytest.mark.parametrize("text", EVIL)
def test_no_expression_of_a_file_is_run(kernel, project, text):
    """Neither whole nor put together with what comes behind it."""
    (project / "prompts" / "evil.md").write_text(text)
    for more in ("", "def=f "):
        error = refused(kernel, f"%%llm sim/openai use=evil {more}\n1, 2)] }}}}")
        assert "evil.md has" in error
    ran = kernel.run("%%llm sim/openai@echo=1 use=evil fill=off out=a\nx")
    assert ran.ok
    assert text in kernel.value("a.text")


def test_a_link_or_no_file_is_not_read(kernel, project, tmp_path):
    (tmp_path / "secret").write_text("sk-canary-canary-canary")
    (project / "prompts" / "link.md").symlink_to(tmp_path / "secret")
    (project / "prompts" / "folder.md").mkdir()
    for name in ("link", "folder"):
        error = refused(kernel, f"%%llm sim/openai use={name}\nx")
        assert f"{name}.md cannot be read" in error
        assert "canary" not in error
    (project / "prompts" / "folder.md").rmdir()


@pytest.mark.parametrize("name", ["prompts/../x", "/tmp/x", "prompts/a/b", "prompts/", "a b", "../x"])
def test_a_name_leads_nowhere_else(kernel, name):
    assert "needs a name" in refused(kernel, f"%%llm save='{name}'\nx")
    assert "No prompt is called" in refused(kernel, f"%%llm sim/openai use='{name}x'\nx")


def test_the_folder_is_the_projects(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "prompts" == prompt_files.prompts_folder()


def test_what_hides_in_a_file_is_seen(kernel, project):
    (project / "prompts" / "bidi.md").write_text("a\u202eb\x1b[31m")
    for line in ("show", "edit"):
        ran = kernel.run(f"%llm prompt {line} bidi")
        assert "\u202e" not in ran.text + str(ran.reply)
        assert "\x1b[31m" not in ran.text + str(ran.reply)
