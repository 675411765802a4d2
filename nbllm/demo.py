"""`python -m nbllm.demo`: runs the quickstart notebook against the simulator and prints its latency table.

Needs no key, no server and no network. The executed notebook and its HTML are written to .cache/demo.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

TABLE_TAG = "latency-table"  # the notebook's cell whose output is printed


def execute(notebook: Path) -> Any:
    """Runs `notebook` against the simulator and returns it with its outputs."""
    import nbformat  # installed with the demo's extras only
    from nbclient import NotebookClient

    os.environ["NBLLM_SIMULATE"] = "1"
    os.environ.setdefault(
        "NBLLM_HOME", str(Path(".cache/demo").resolve())
    )  # keeps demo calls out of the user's log
    nb = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
    quiet = ["--IPKernelApp.log_level=40"]  # hides the warning that a loopback kernel is not encrypted
    NotebookClient(
        nb,
        timeout=120,
        kernel_name="python3",
        extra_arguments=quiet,
        record_timing=False,
        resources={"metadata": {"path": str(notebook.parent)}},
    ).execute()
    return nb


def run(notebook: Path, out: Path) -> tuple[Path, Path, str]:
    """Executes `notebook`; returns the paths of the executed notebook and of its HTML, and the text of its
    latency table."""
    import nbformat
    from nbconvert import HTMLExporter

    nb = execute(notebook)
    out.mkdir(parents=True, exist_ok=True)
    executed, page = out / notebook.name, out / f"{notebook.stem}.html"
    nbformat.write(nb, executed)  # type: ignore[no-untyped-call]
    page.write_text(HTMLExporter().from_notebook_node(nb)[0], "utf-8")  # type: ignore[no-untyped-call]
    return executed, page, _tagged_tables(nb)


def store(notebooks: list[Path]) -> None:
    """Executes notebooks and writes them back with their outputs, without metadata that differs between
    machines."""
    import nbformat

    for path in notebooks:
        with tempfile.TemporaryDirectory(prefix="nbllm-demo-") as home:  # no earlier runs
            os.environ["NBLLM_HOME"] = home
            nb = execute(path)
        nb.metadata = {
            "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
        nbformat.write(nb, path)  # type: ignore[no-untyped-call]


def _tagged_tables(nb: Any) -> str:
    tagged = [c for c in nb.cells if TABLE_TAG in c.metadata.get("tags", [])]
    texts = [o["data"]["text/plain"] for c in tagged for o in c.outputs if "data" in o]
    return "\n".join(texts)


def main() -> int:
    """Runs the demo and prints the latency table and the paths of the files that it wrote."""
    if sys.argv[1:2] == ["--store"]:
        store([Path(name) for name in sys.argv[2:]])
        return 0
    notebook = Path(__file__).resolve().parent.parent / "notebooks" / "quickstart.ipynb"
    if not notebook.exists():
        print("The demo runs from a checkout: notebooks/quickstart.ipynb is not here.", file=sys.stderr)  # noqa: T201
        return 1
    missing = [name for name in ("ipykernel", "nbclient", "nbconvert") if find_spec(name) is None]
    if missing:
        message = f"The demo needs {', '.join(missing)}: `make demo`, or pip install -e '.[demo]'."
        print(message, file=sys.stderr)  # noqa: T201
        return 1
    began = time.monotonic()
    print("Running notebooks/quickstart.ipynb against the simulator (no key, no network) ...", flush=True)  # noqa: T201
    executed, page, table = run(notebook, Path(".cache/demo").resolve())
    print(  # noqa: T201
        f"\n{table}\n\nDone in {time.monotonic() - began:.0f} s. All answers above are "
        f"simulated.\n"
        f"  executed notebook  {executed}\n  as a web page      {page}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
