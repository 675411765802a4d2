"""Where the CPU time of nbllm goes: the most expensive functions of this tree and of an older one.

    python benchmarks/profiles.py                                  this tree, some two minutes
    git worktree add /tmp/before 9e180ea
    python benchmarks/profiles.py --before /tmp/before             next to an older one

cProfile over all threads, by each thread's own CPU time, so that waiting does not count; C code counts for
the function that calls it. Calls are more expensive under the profiler: shares within a table may be
compared, microseconds not with those of other benchmarks. Every load starts after a few warm-up calls. For
`bench.run` the worker is profiled: its event loop and its recorder. Needs Python 3.11: from 3.12 on, cProfile
can profile one thread of a process only.
"""

from __future__ import annotations

import argparse
import os
import pstats
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOP = 5
# a plan of fast_server.py, how often it is run, and the number of units in all runs
LOADS = {
    "a warm request": ("c3-g0-f0", 500, 500),
    "a chunk of a burst": ("c3000-g0-f0", 20, 60_000),
    "a chunk that comes alone": ("c500-g2000-f20000", 2, 1000),
    "a request of bench.run, 256 at a time": ("c3-g0-f0", 3000, 3000),
}
BENCH = "a request of bench.run, 256 at a time"
# Imported by every Python that finds it on its path: profiles each thread once it is switched on.
HOOK = """
import atexit, cProfile, marshal, os, sys, threading, time
on, profiles = threading.Event(), []
def begin():
    sys.setprofile(None)
    profiles.append(cProfile.Profile(time.thread_time, builtins=False))
    profiles[-1].enable()
def waiting(frame, event, arg):
    if on.is_set():
        begin()
def end():
    sys.setprofile(None)
    for number, profile in enumerate(profiles):
        profile.snapshot_stats()  # create_stats would end what waits there by this thread's clock
        if profile.stats:
            with open(f"{os.environ['NBLLM_PROFILE']}.{number}", "wb") as file:
                marshal.dump(profile.stats, file)
if "NBLLM_PROFILE" in os.environ:
    threading.setprofile(waiting)
    atexit.register(end)
    if "NBLLM_PROFILE_NOW" in os.environ:
        on.set()
"""


def child(plan: str, times: int, url: str, out: str) -> None:
    """Runs one load in a separate process, with the tree that is on its path."""
    import sitecustomize as hook

    import nbllm

    if out:
        os.environ |= {"NBLLM_PROFILE": out, "NBLLM_PROFILE_NOW": "1"}
        model = {"model": f"openai/{plan}", "base_url": f"{url}/v1", "api_key": "k"}
        options: dict[str, Any] = {"concurrency": 256, "per_turn": times, "blocks": 1, "warmup": 0}
        nbllm.bench.run(model, "Go.", directory=f"{out}.run", progress=False, **options)
        return
    client = nbllm.Client()
    for number in range(times + 3):
        if number == 3:
            hook.on.set()
            hook.begin()
        stream = client.stream("x", f"openai/{plan if number >= 3 else 'c3-g0-f0'}")
        for _ in stream:
            pass
        stream.response()


def profile_load(tree: Path, load: str, url: str) -> pstats.Stats:
    """The profile of a load, all threads together."""
    plan, times, _ = LOADS[load]
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "sitecustomize.py").write_text(HOOK)
        out = f"{directory}/profile"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NBLLM", "OPENAI"))} | {
            "PYTHONPATH": os.pathsep.join((directory, str(tree))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NBLLM_HOME": f"{directory}/home",
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": f"{url}/v1",
        }
        bench = load == BENCH
        command = [sys.executable, __file__, "--child", plan, str(times), url, out if bench else ""]
        here = Path(directory) / "here"  # must not be on the path: workers drop the working folder
        here.mkdir()
        env |= {} if bench else {"NBLLM_PROFILE": out}
        subprocess.run(command, env=env, check=True, cwd=here, stdout=subprocess.DEVNULL)
        files = sorted(Path(directory).glob("profile.[0-9]*"))
        return pstats.Stats(*map(str, files))


def area(path: Path, tree: Path) -> str:
    """The origin of a file: a part of nbllm, a package, or Python."""
    if path.is_relative_to(tree / "nbllm"):
        return f"nbllm/{path.relative_to(tree / 'nbllm').parts[0].removesuffix('.py')}"
    parts = path.parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return "asyncio" if "asyncio" in parts else "Python"


def shares(stats: pstats.Stats, tree: Path) -> tuple[float, int, list[str]]:
    """Seconds, calls, and the largest shares: first of areas, then of functions."""
    areas, functions = Counter[str](), Counter[str]()
    calls = 0
    for (file, _, function), (_, count, used, *_) in stats.stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        ours = path.relative_to(tree) if path.is_relative_to(tree) else Path(*path.parts[-2:])
        areas[area(path, tree)] += used
        functions[f"`{ours}` {function.strip('<>')}"] += used
        calls += count
    total = sum(areas.values())
    rows = [[f"{name} {used / total:.0%}" for name, used in c.most_common(TOP)] for c in (areas, functions)]
    return total, calls, [*rows[0], *rows[1]]


def main() -> None:
    """Prints one table per load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="the folder of an older tree")
    parser.add_argument("--loads", default=",".join(map(str, range(len(LOADS)))), help="their numbers")
    arguments = parser.parse_args()
    if sys.version_info >= (3, 12):
        sys.exit("This needs Python 3.11: from 3.12 on, cProfile sees one thread of a process.")
    sys.path.insert(0, str(ROOT))  # not in a child, whose path has the tree that it profiles
    from benchmarks.client import Server

    trees = [*([arguments.before.resolve()] if arguments.before else []), ROOT]
    server = Server()
    try:
        for load in (list(LOADS)[int(number)] for number in arguments.loads.split(",")):
            units = LOADS[load][2]
            profiles = [shares(profile_load(tree, load, server.url), tree) for tree in trees]
            heads = [
                f"{used / units * 1e6:,.1f} µs, {calls / units:,.1f} calls" for used, calls, _ in profiles
            ]
            print(f"\n| {load} | " + " | ".join(heads) + " |\n" + "|---" * (1 + len(profiles)) + "|")
            for number, row in enumerate(zip_longest(*(names for *_, names in profiles), fillvalue="")):
                what = {0: "by part", TOP: "by function"}.get(number, "")
                print(f"| {what} | " + " | ".join(row) + " |", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
