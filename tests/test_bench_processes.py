"""Processes started by a benchmark: they run no file of the working folder, and end with their parent."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd  # noqa: F401 - before hostile files lie in the working folder
import pytest

import nbllm
from nbllm.bench import children
from nbllm.bench import runner as running

from .processes import LONG

pytestmark = pytest.mark.slow

ROOT = Path(nbllm.__file__).resolve().parent.parent
HOSTILE = (
    "queue",
    "json",
    "httpx",
    "runpy",
    "numpy",
    "secrets",
    "nbllm",
    "asyncio",
    "subprocess",
    "threading",
    "os",
)
QUICK = "sim/openai@ttft=0.01,gap=0.001,tokens=3"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A working folder full of files that are called as modules are, and tell where they ran."""
    folder, mark = tmp_path / "notebooks", tmp_path / "it-ran"
    (folder / "sub").mkdir(parents=True)
    for place in (folder, folder / "sub"):
        for name in HOSTILE:
            (place / f"{name}.py").write_text(
                f"open({str(mark)!r}, 'a').write({name!r}); raise SystemExit('trapped')\n"
            )
    monkeypatch.chdir(folder)
    monkeypatch.setenv("NBLLM_RUNS", str(tmp_path / "runs"))
    return mark


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        ".",
        os.pathsep,
        f"{os.pathsep}{ROOT}",
        "sub",
        "./sub",
        "HERE",
        f"HERE{os.pathsep}{ROOT}",
        f"LINK{os.pathsep}",
    ],
)
def test_no_file_beside_the_notebook_runs_in_our_processes(trap, monkeypatch, path):
    """Worker, simulator and fresh process start where modules lie about; whatever PYTHONPATH says of that
    folder."""
    link = trap.parent / "link"
    link.symlink_to(Path.cwd())
    if path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", path.replace("HERE", str(Path.cwd())).replace("LINK", str(link)))
    monkeypatch.setattr(sys, "path", ["", str(Path.cwd()), *sys.path])
    df = running.run(QUICK, "Go.", blocks=1, warmup=0, cold=["cold_process", "warm"], progress=False)
    assert not trap.exists(), trap.read_text()
    assert [True, True] == list(df["ok"])


@pytest.mark.parametrize("where", ["path", "folder", "inserted"])
def test_our_processes_run_the_very_nbllm_that_started_them(tmp_path, where):
    """On PYTHONPATH only, in the working folder only (a checkout), or on a path that was put together in the
    session."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "nbllm").symlink_to(ROOT / "nbllm")
    code = f"""
        import sys
        sys.path.insert(0, {str(copy)!r}) if {where == "inserted"} else None
        import nbllm
        nbllm.__file__.startswith({str(ROOT)!r}) or nbllm.__file__.startswith({str(copy)!r}) or sys.exit(nbllm.__file__)
        from nbllm.bench import children
        import subprocess
        out = subprocess.run(children.command("nbllm.simulator", "--help"), env=children.environment(), stdin=subprocess.PIPE, capture_output=True, text=True)
        sys.exit(out.stderr or ("--attached" not in out.stdout))
    """  # noqa: E501
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (
        {"PYTHONPATH": str(copy)} if where == "path" else {}
    )
    folder = copy if where == "folder" else tmp_path
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        check=False,
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert (0, "") == (found.returncode, found.stderr)


def test_a_folder_that_is_gone_is_no_folder(tmp_path, monkeypatch):
    """The working folder was deleted: what is named by its whole path stays."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}/some/where")
    assert "/some/where" == children.environment()["PYTHONPATH"]


# --- the end of a parent ---


def below(pid):
    """The processes that `pid` started, and those that they did, as handles that can be waited for."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found, more = set(), {pid}
    while more := {p for p, parent in parents.items() if parent in more} - found:
        found |= more
    handles = {}
    for p in found:
        with contextlib.suppress(OSError):  # it has ended since it was listed
            handles[p] = os.pidfd_open(p)
    return handles


def end_of(handles, within=LONG):
    """Those of them that have not ended within so many seconds."""
    waiting = dict(handles)
    for pid, handle in handles.items():
        if select.select([handle], [], [], within)[0]:
            del waiting[pid]
    return waiting


def words(pid):
    with contextlib.suppress(OSError):
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().decode().split("\0")
    return []


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes that are not its own")
@pytest.mark.parametrize(
    ("kind", "expected"), [("warm", ["simulator", "worker"]), ("cold_process", ["cold_start", "worker"])]
)
@pytest.mark.parametrize("also", [[], ["worker"]])
def test_nothing_of_ours_lives_on_after_the_kernel_was_killed(tmp_path, kind, expected, also):
    """kill -9 of the notebook, and of its worker with it, while an answer is waited for, of a server that
    lives on."""
    server = nbllm.simulator.serve()
    model = (
        "sim/openai@ttft=600"
        if kind == "warm"
        else {"model": "m@ttft=600", "base_url": server.base_url("openai_chat"), "api_key": "sim"}
    )
    code = f"""
        import nbllm
        nbllm.bench.run({model!r}, "Go.", blocks=3, warmup=0, cold=[{kind!r}], progress=False, directory={str(tmp_path / "run")!r}, timeout={{"first": None, "idle": None}})
    """  # noqa: E501
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    handles = {}
    try:
        names = {}
        for _ in range(2400):
            handles = below(parent.pid)
            names = {
                next((w.rpartition(".")[2] for w in words(p) if w.startswith("nbllm.")), "?"): p
                for p in handles
            }
            if sorted(names) == expected and ("worker.log" in os.listdir(tmp_path / "run")):
                break
            assert parent.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                parent.wait(0.05)
        assert expected == sorted(names)
        for name in also:
            os.kill(names[name], signal.SIGKILL)
        parent.kill()
        parent.wait()
        left = end_of(handles)
        assert [] == [words(p) for p in left]
    finally:
        for pid in handles:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        parent.kill()
        server.close()


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes that are not its own")
def test_a_simulator_that_is_busy_ends_too(tmp_path):
    """Its server's thread is at work on an answer without end when the parent goes."""
    code = """
        import sys
        from nbllm.bench import supervisor as conducting
        with conducting.simulator() as addresses:
            print(addresses["openai_chat"], flush=True)
            sys.stdin.read()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    address = parent.stdout.readline().strip()
    handles = below(parent.pid)
    try:
        assert 1 == len(handles)
        stream = nbllm.Client().stream("Go.", model="m@tokens=1000000,gap=0", base_url=address, api_key="sim")
        stream.wait()
        parent.kill()
        parent.wait()
        assert {} == end_of(handles)
        stream.cancel()
    finally:
        for pid in handles:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        parent.kill()


def test_a_simulator_by_hand_needs_no_standard_input():
    """`python -m nbllm.simulator` in the background serves on where its input is closed."""
    server = subprocess.Popen(
        [sys.executable, "-m", "nbllm.simulator"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        address = [server.stdout.readline() for _ in range(2)][1].split()[1]
        assert nbllm.Client().complete("Go.", model="m@tokens=3", base_url=address, api_key="sim").text
        assert server.poll() is None
    finally:
        server.kill()
        server.wait()
