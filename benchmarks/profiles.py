"""Where the processor time of nbllm goes: the functions that cost most, of this tree and of an older one.

    python benchmarks/profiles.py                                  this tree, some two minutes
    git worktree add /tmp/before 9e180ea
    python benchmarks/profiles.py --before /tmp/before             beside an older one

cProfile over all threads, by each thread's own processor time, so that nobody's waiting counts; what is
written in C counts for the function that calls it. Calls are dearer under it than they are: shares of a table
may be compared with each other, microseconds not with those of other benchmarks. Every load begins after a
few calls that warm it up. Of `bench.run` the worker is profiled: its loop and its recorder. Python 3.11: from
3.12 on, one thread of a process can be profiled so.
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
# what is asked: a plan of fast_server.py, how often, and of how many units that consists
LOADS = {
    "a warm request": ("c3-g0-f0", 500, 500),
    "a chunk of a burst": ("c3000-g0-f0", 20, 60_000),
    "a chunk that comes alone": ("c500-g2000-f20000", 2, 1000),
    "a request of bench.run, 256 at a time": ("c3-g0-f0", 3000, 3000),
}
BENCH = "a request of bench.run, 256 at a time"
# Is imported by every Python that finds it on its path: notes what each thread calls, once it is told to.
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
    """Does one load, in a process of its own, with the tree that is on its path."""
    import sitecustomize as hook

    import nbllm

    if out:
        os.environ |= {"NBLLM_PROFILE": out, "NBLLM_PROFILE_NOW": "1"}
        model = {"model": f"openai/{plan}", "base_url": f"{url}/v1", "api_key": "k"}
        how: dict[str, Any] = {"concurrency": 256, "per_turn": times, "blocks": 1, "warmup": 0}
        nbllm.bench.run(model, "Go.", directory=f"{out}.run", progress=False, **how)
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


def profiled(tree: Path, load: str, url: str) -> pstats.Stats:
    """The profile of a load, all threads together."""
    plan, times, _ = LOADS[load]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "sitecustomize.py").write_text(HOOK)
        out = f"{place}/profile"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("NBLLM", "OPENAI"))} | {
            "PYTHONPATH": os.pathsep.join((place, str(tree))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "NBLLM_HOME": f"{place}/home",
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": f"{url}/v1",
        }
        bench = load == BENCH
        command = [sys.executable, __file__, "--child", plan, str(times), url, out if bench else ""]
        here = Path(place) / "here"  # what is on the path must not be the working folder: workers drop that
        here.mkdir()
        env |= {} if bench else {"NBLLM_PROFILE": out}
        subprocess.run(command, env=env, check=True, cwd=here, stdout=subprocess.DEVNULL)
        found = sorted(Path(place).glob("profile.[0-9]*"))
        return pstats.Stats(*map(str, found))


def area(place: Path, tree: Path) -> str:
    """Who wrote a file: a part of nbllm, a package, else Python."""
    if place.is_relative_to(tree / "nbllm"):
        return f"nbllm/{place.relative_to(tree / 'nbllm').parts[0].removesuffix('.py')}"
    parts = place.parts
    if "site-packages" in parts:
        return parts[parts.index("site-packages") + 1].removesuffix(".py")
    return "asyncio" if "asyncio" in parts else "Python"


def shares(stats: pstats.Stats, tree: Path) -> tuple[float, int, list[str]]:
    """Seconds, calls, and who has which share: areas, and then functions."""
    areas, functions = Counter[str](), Counter[str]()
    calls = 0
    for (file, _, function), (_, count, used, *_) in stats.stats.items():  # type: ignore[attr-defined]
        place = Path(file)
        ours = place.relative_to(tree) if place.is_relative_to(tree) else Path(*place.parts[-2:])
        areas[area(place, tree)] += used
        functions[f"`{ours}` {function.strip('<>')}"] += used
        calls += count
    total = sum(areas.values())
    rows = [[f"{name} {used / total:.0%}" for name, used in c.most_common(TOP)] for c in (areas, functions)]
    return total, calls, [*rows[0], *rows[1]]


def main() -> None:
    """Prints a table a load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--before", type=Path, help="the folder of an older tree")
    parser.add_argument("--loads", default=",".join(map(str, range(len(LOADS)))), help="their numbers")
    given = parser.parse_args()
    if sys.version_info >= (3, 12):
        sys.exit("This needs Python 3.11: from 3.12 on, cProfile sees one thread of a process.")
    sys.path.insert(0, str(ROOT))  # not in a child, which has the tree that it profiles
    from benchmarks.client import Server

    trees = [*([given.before.resolve()] if given.before else []), ROOT]
    server = Server()
    try:
        for load in (list(LOADS)[int(number)] for number in given.loads.split(",")):
            units = LOADS[load][2]
            found = [shares(profiled(tree, load, server.url), tree) for tree in trees]
            heads = [f"{used / units * 1e6:,.1f} µs, {calls / units:,.1f} calls" for used, calls, _ in found]
            print(f"\n| {load} | " + " | ".join(heads) + " |\n" + "|---" * (1 + len(found)) + "|")
            for number, row in enumerate(zip_longest(*(names for *_, names in found), fillvalue="")):
                what = {0: "by part", TOP: "by function"}.get(number, "")
                print(f"| {what} | " + " | ".join(row) + " |", flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
