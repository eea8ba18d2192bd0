"""A study on a cluster: `dvc repro` with its cells on many nodes.

The head reads DVC's graph at a commit, leaves out what the run cache has, hands the rest to Ray, and ends with the
report. A finished cell is in the remote at once: a call after a kill goes on from there.
"""

import getpass
import importlib.util
import logging
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimlab import config, paths, records
from trimlab.errors import UserError, one_line
from trimlab.execution import cell as one_cell
from trimlab.execution import node
from trimlab.progress import say

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

    from trimlab.execution.ray_cells import Cell

LOGS = paths.STATE / "scale"
"""The folder for the logs of cells that failed."""
TIMING = "timing"
"""Ray's resource of the nodes that measure, one each: a timing takes a whole node."""

_HERE = ("fingerprint", "prepare")
"""Stages that the head runs: it has the source and the data."""
_LAST = "report"
_RESULTS = [f":!{name}" for name in ("dvc.lock", "report", "reports", "records", "searches")]
_NOT_SENT = [*_RESULTS, *(f":!{name}" for name in ("docs", "tests", "benchmarks"))]


def run(address: str, remote: str | None, folder: str | None, gpu_share: float) -> int:
    """Run the study in params.yaml on a cluster, from the project's root; return the exit code.

    Args:
        address: of a Ray cluster; `auto` finds this machine's, `local` starts Ray here.
        remote: the DVC remote through which nodes share results; None is DVC's default.
        folder: on each node, for copies of the source tree and DVC's cache.
        gpu_share: of a GPU, that a cell takes which trains.

    Raises:
        UserError: something is missing, uncommitted or not reachable.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("Ray is not installed: pip install --editable '.[scale]'")
    study = config.load()
    source = _source()
    with _project(remote) as repo, _connected(address):
        job = node.Job(
            source=source,
            commit=records.commit(),
            config=_nodes_config(repo),
            folder=folder or f"/tmp/trimlab-{getpass.getuser()}/{Path.cwd().name}",
            env=_tracking() | ({"TRIMLAB_SHARE_GPU": "1"} if gpu_share < 1 else {}),
        )
        return _Head(study, repo, job, gpu_share).run()


@contextmanager
def _project(remote: str | None) -> Iterator["Repo"]:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(config={"core": {"remote": remote}} if remote else None) as repo:
            name = repo.config["core"].get("remote")
            if name not in repo.config["remote"]:
                known = ", ".join(repo.config["remote"]) or "none"
                asked = f"DVC has no remote {name} (known: {known})" if name else "DVC has no default remote"
                raise UserError(f"{asked}: nodes share results through one, `dvc remote add -d NAME URL`")
            yield repo
    except DvcException as error:
        raise UserError(one_line(one_cell.told(error), 400)) from error


@contextmanager
def _connected(address: str) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's default of 15 lets any other process of the machine hold up a training or a timing.
    os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    if address not in ("local", "auto"):
        _knock(address)
    own: dict[str, Any] = {"resources": {TIMING: 1}, "include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({one_line(error)}): start one with `ray start`"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens: Ray itself tries for minutes.

    Raises:
        UserError: nobody does, or it is not HOST:PORT.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise _unreachable(address, error) from None


def _unreachable(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster answers at {address} ({one_line(error)}): give --address HOST:PORT as `ray start` says it"
    )


def _source() -> bytes:
    """Return the source tree at the current commit, a tar.

    Raises:
        UserError: a file that cells may depend on is not committed.
    """
    status = _git("status", "--porcelain", "--", ".", *_RESULTS).decode().splitlines()
    changed = [line[3:] for line in status if not line.startswith("??") or line[3:].startswith(("src/", "stages/"))]
    if changed:
        more = f" and {len(changed) - 1} more" if changed[1:] else ""
        raise UserError(f"{changed[0]}{more} differs from the last commit, which the nodes get: commit it first")
    return _git("archive", "--format=tar", "HEAD", "--", ".", *_NOT_SENT)


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", b"").decode() or str(error)
        raise UserError(f"`git {arguments[0]}` failed ({one_line(said)}): the nodes get a commit's files") from None


def _nodes_config(repo: "Repo") -> str:
    """Return DVC's config for nodes: the remote as the head knows it, without git."""
    name = repo.config["core"]["remote"]
    values = "".join(f"    {key} = {value}\n" for key, value in repo.config["remote"][name].items())
    return f"[core]\n    no_scm = true\n    remote = {name}\n['remote \"{name}\"']\n{values}"


def _tracking() -> dict[str, str]:
    """Return MLflow's variables for nodes: a server takes runs from all of them, a file from the head alone."""
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        return {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    return {"TRIMLAB_TRACKING": "off"}


class _Head:
    """What the head knows of the study's cells."""

    def __init__(self, study: config.Params, repo: "Repo", job: node.Job, gpu_share: float) -> None:
        import networkx
        import ray

        self.study, self.repo, self.job, self.gpu_share = study, repo, job, gpu_share
        graph = repo.index.graph
        self.stages = {stage.addressing: stage for stage in networkx.dfs_postorder_nodes(graph)}
        """All but the report, each after those that it needs."""
        del self.stages[_LAST]
        self.needs = {name: _needs(graph, stage) for name, stage in self.stages.items()}
        self.nodes = [each for each in ray.nodes() if each["Alive"]]  # type: ignore[no-untyped-call]
        self.answers: dict[str, Any] = {}
        """The answers of finished cells, by name."""

    def run(self) -> int:
        from trimlab.execution import ray_cells

        self._run_here()
        self._look()
        self._recall()
        missing = [self._cell(name) for name in self.stages if name not in self.answers]
        done = len(self.stages) - len(missing)
        say(f"{done} cells are in the run cache, {len(missing)} run on {len(self.nodes)} nodes")
        outcome = ray_cells.run(missing, partial(node.run, self.job), self.answers, LOGS)
        self.answers |= outcome.answers
        self._restore()
        if outcome.failed:
            said = ", ".join(f"{cell} (see {log})" for cell, log in outcome.failed.items())
            print(f"{len(self.answers)} of {len(self.stages)} cells are done; {len(outcome.not_run)} did not run")
            raise UserError(f"failed: {said}: run the same command again once that is fixed")
        self.repo.reproduce(_LAST, single_item=True)
        print(f"{len(self.stages)} cells are done: the report is in {paths.REPORT}/report.md")
        return 0

    def _run_here(self) -> None:
        """Run what needs the source and the data, and share it with the nodes."""
        targets = [name for name in self.stages if name.partition("@")[0] in _HERE]
        given = [name for name, stage in self.stages.items() if not stage.cmd]
        self.repo.reproduce(targets, pull=True)
        self.repo.push([*targets, *given])
        for name in targets:
            (stage,) = self.repo.stage.collect(name)
            one_cell.push_runs(self.repo, stage)
        made = one_cell.entries(one_cell.LOCKFILE)
        self.answers |= {name: {"entry": made[name], "files": {}} for name in targets}
        self.answers |= {name: {"entry": None, "files": {}} for name in given}

    def _look(self) -> None:
        """Ask each node that measures which runtimes it has, and say what it is.

        Raises:
            UserError: there is none, or they are of several kinds.
        """
        from trimlab.execution import ray_cells

        measuring = {_name(each): each for each in self.nodes if each["Resources"].get(TIMING)}
        if not measuring:
            start = f"ray start --resources='{{\"{TIMING}\": 1}}'"
            raise UserError(f"no node measures: start those that do, all of one kind, with `{start}`")
        asked = [
            ray_cells.Cell(f"runtimes on {name}", self.needs["runtimes"], node_id=each["NodeID"])
            for name, each in measuring.items()
        ]
        outcome = ray_cells.run(asked, partial(node.look, self.job), self.answers, LOGS)
        if outcome.failed:
            raise UserError(
                f"a node cannot be asked for its runtimes: see {', '.join(map(str, outcome.failed.values()))}"
            )
        kinds: dict[str, list[str]] = {}
        for (name, each), answer in zip(measuring.items(), outcome.answers.values(), strict=True):
            kinds.setdefault(_kind(each, answer), []).append(name)
        if len(kinds) > 1:
            listed = "; ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items())
            raise UserError(f"nodes that measure are of {len(kinds)} kinds ({listed}): give {TIMING} to one kind")
        (kind,) = kinds
        say(f"{len(measuring)} nodes measure: {kind}")
        self.timing = next(iter(measuring.values()))["Resources"]
        self.answers["runtimes"] = outcome.answers[asked[0].name]

    def _recall(self) -> None:
        """Take from the run cache what is there, and see that the remote has its data."""
        made: dict[str, Any] = {}
        for name, stage in self.stages.items():
            if name not in self.answers and all(need in self.answers for need in self.needs[name]):
                entry = self._recalled(stage, made)
                if entry:
                    self.answers[name] = {"entry": entry, "files": {}}
            if name in self.answers:
                _fill(stage, self.answers[name]["entry"])
                made |= {out.fs_path: out for out in stage.outs}

    def _recalled(self, stage: "Stage", made: dict[str, Any]) -> dict[str, Any] | None:
        """Return a cell's entry in the run cache, if its data are in the remote.

        Args:
            stage: the cell.
            made: the outputs of the cells that it needs, by path.
        """
        from dvc.exceptions import DvcException

        for dep in stage.deps:
            if out := made.get(dep.fs_path):
                dep.hash_info, dep.meta = out.hash_info, out.meta
            else:
                dep.save()
        entry = one_cell.newest_run(self.repo, stage)
        if not entry:
            return None
        _fill(stage, entry)
        try:
            data = stage.get_used_objs()
            lacking = self.repo.cloud.push({each for objs in data.values() for each in objs}).failed
        except DvcException:  # a folder's list of files is gone
            return None
        return None if lacking else entry

    def _cell(self, name: str) -> "Cell":
        """Return a cell with what it takes: a GPU or its cores to train, a whole node to measure, else one core."""
        from trimlab.execution.ray_cells import Cell

        stage, _, key = name.partition("@")
        needs = self.needs[name]
        if stage == "benchmark":
            return Cell(name, needs, self.timing["CPU"], self.timing.get("GPU", 0), {TIMING: 1})
        if stage not in ("train", "prune") and not (
            stage == "quantize" and self.study.variants[key].is_trained_quantized
        ):
            return Cell(name, needs, env={"CUDA_VISIBLE_DEVICES": ""})
        with_gpu = [each["Resources"] for each in self.nodes if each["Resources"].get("GPU")]
        if with_gpu:
            cores = min(each.get("CPU", 0) / each["GPU"] for each in with_gpu)
            return Cell(name, needs, max(1, int(cores * self.gpu_share)), self.gpu_share)
        return Cell(name, needs, min(filter(None, (each["Resources"].get("CPU") for each in self.nodes))))

    def _restore(self) -> None:
        """Write to dvc.lock what finished cells gave, and pull it."""
        from dvc.utils.serialize import dump_yaml

        given = {name: each["entry"] for name, each in self.answers.items() if each["entry"]}
        found = one_cell.entries(one_cell.LOCKFILE)
        dump_yaml(str(one_cell.LOCKFILE), {"schema": "2.0", "stages": found | given})
        for answer in self.answers.values():
            one_cell.write(answer["files"])
        self.repo.pull([name for name in given if not self.answers[name]["files"]], force=True)


def _needs(graph: Any, stage: "Stage") -> tuple[str, ...]:
    """Return the cells whose outputs a cell reads: those that it depends on, and the dataset of its workload.

    DVC's templates cannot name the dataset of a variant, so that cell stands further back in the graph.
    """
    import networkx

    found = {other.addressing for other in graph.successors(stage)}
    back = {other.addressing for other in networkx.descendants(graph, stage)}
    return tuple(sorted(found | {name for name in back if name.startswith("prepare@")}))


def _fill(stage: "Stage", entry: dict[str, Any] | None) -> None:
    """Give a stage the hashes that an entry of dvc.lock has; a file that `dvc add` tracks has them."""
    from dvc.stage.loader import StageLoader

    if entry:
        StageLoader.fill_from_lock(stage, entry)


def _name(each: dict[str, Any]) -> str:
    return f"{each['NodeManagerHostname']}/{each['NodeID'][:4]}"


def _kind(each: dict[str, Any], answer: dict[str, Any]) -> str:
    """Return what tells a node that measures apart: processor, GPUs, runtimes."""
    resources = each["Resources"]
    models = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    gpus = [f"{resources['GPU']:g} × {', '.join(models) or 'GPU'}"] if resources.get("GPU") else []
    runtimes = [text.strip() for text in answer["files"].values()]
    return ", ".join([*map(str, answer["device"]), f"{resources.get('CPU', 0):g} CPUs", *gpus, *runtimes])
