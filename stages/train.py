"""Train a workload with every seed, or take its given weights: `train/WORKLOAD/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, workload: str) -> None:
    """Train one workload."""
    from trimlab import machine, rehearsal
    from trimlab.track import mlflow_runs
    from trimlab.train import stage as train_stage

    with machine.one_at_a_time(f"train/{workload}"):
        rehearsal.rehearse(study, workload)
        for seed in study.seeds:
            with mlflow_runs.live(study, "train", workload, seed) as stream:
                record = train_stage.train_workload(study, workload, seed, on_epoch=stream)
            mlflow_runs.log(study, record)
    progress.wrote(paths.trained(workload))


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "workloads"))
