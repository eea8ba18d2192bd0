"""Measure what spreading cells costs: `python benchmarks/scale.py`, on a quiet machine with Ray.

`simulate` runs sleeping cells on nodes that are processes of this machine, and says which share of the nodes' time was
not spent in cells. `overhead` runs the cells of a study whose stages do nothing but sleep, and says how much longer
each took as a task: copies of the source, DVC and the remote.
"""

import argparse
import functools
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from trimlab.execution import ray_cells
from trimlab.execution.ray_cells import Cell

CHAIN = ("train", "prune", "quantize", "benchmark")
PROJECT = Path(__file__).parent.parent

STAGE = """\
import os, sys, time
from pathlib import Path
from ruamel.yaml import YAML
stage = Path(sys.argv[0]).stem
entry = YAML(typ="safe").load(Path("dvc.yaml"))["stages"][stage]
entry = entry.get("do", entry)
time.sleep(SECONDS)
for out in [*entry["outs"], *entry.get("metrics", [])]:
    path = Path((out if isinstance(out, str) else next(iter(out))).replace("${key}", sys.argv[-1]))
    path = path if path.suffix else path / "content"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(os.environ["DVC_STAGE"])
"""
"""A stage that sleeps and writes its outputs."""


def sleep(seconds: float, cell: str, _: dict[str, Any], __: dict[str, str]) -> str:
    time.sleep(seconds)
    return cell


def simulate(nodes: int, slots: int, count: int, seconds: float, chain: int) -> str:
    """Return the share of the nodes' time that was not spent in cells, each in a chain of so many."""
    own = {"object_store_memory": 80 << 20}  # the least that Ray takes: nodes share this machine's memory
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **own})
    for _ in range(nodes):
        cluster.add_node(num_cpus=slots, **own)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        warm = [Cell(f"warm@{number}") for number in range(nodes * slots)]
        with tempfile.TemporaryDirectory() as logs:
            # Here one machine starts the workers of all nodes; on a cluster each node starts its own.
            ray_cells.run(warm, functools.partial(sleep, 5.0), {}, Path(logs))
            cells = [
                Cell(f"{stage}@{number}", (f"{CHAIN[at - 1]}@{number}",) if at else ())
                for number in range(count // chain)
                for at, stage in enumerate(CHAIN[:chain])
            ]
            began = time.monotonic()
            outcome = ray_cells.run(cells, functools.partial(sleep, seconds), {}, Path(logs))
            elapsed = time.monotonic() - began
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert len(outcome.answers) == len(cells), outcome.failed
    idle = 1 - len(cells) * seconds / (elapsed * nodes * slots)
    return (
        f"{len(cells)} cells of {seconds:g} s, in chains of {chain}, on {nodes} nodes of {slots} cores: "
        f"{elapsed:.1f} s, {100 * idle:.1f} % of the nodes' time not in cells"
    )


def overhead(study: str, seconds: float) -> str:
    """Return how much longer cells take as tasks than their stages sleep, in Ray on this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "project"
        subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{PROJECT}", str(root)], check=True)
        for file in (root / "stages").glob("*.py"):
            file.write_text(STAGE.replace("SECONDS", str(seconds)))
        shutil.copy(root / "studies" / f"{study}.yaml", root / "params.yaml")
        (root / "dvc.lock").unlink(missing_ok=True)
        for command in (
            ["dvc", "remote", "add", "-q", "-d", "storage", str(Path(scratch) / "remote")],
            ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "-qam", "stages that sleep"],
        ):
            subprocess.run([*([sys.executable, "-m"] if command[0] == "dvc" else []), *command], cwd=root, check=True)
        scale = [sys.executable, "-m", "trimlab.cli", "scale", "--folder", str(Path(scratch) / "node")]
        done = subprocess.run(scale, cwd=root, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    took = [float(each) - seconds for each in re.findall(r": done on \S+ in ([\d.]+) s", done.stderr)]
    return (
        f"{len(took)} cells of the study {study}: {statistics.median(took):.1f} s a cell beside its stage (median), "
        f"at most {max(took):.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "overhead"])
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--slots", type=int, default=1, help="cells that a node runs at once")
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--chain", type=int, default=4, choices=range(1, 5), help="cells that need one another")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long a cell sleeps")
    parser.add_argument("--study", default="quick")
    asked = parser.parse_args()
    if asked.what == "simulate":
        print(simulate(asked.nodes, asked.slots, asked.cells, asked.seconds, asked.chain))
    else:
        print(overhead(asked.study, asked.seconds))


if __name__ == "__main__":
    main()
