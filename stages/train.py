"""Train a workload, or take its given weights, once a seed: `train/WORKLOAD/`."""

import sys

from trimlab import errors, params


def main(study: params.Params, workload: str) -> None:
    """Train one workload with every seed."""
    from trimlab import machine, tracking, training

    with machine.one_at_a_time(f"train/{workload}"):
        for seed in study.seeds:
            with tracking.live(study, "train", workload, seed) as stream:
                record = training.train_workload(study, workload, seed, on_epoch=stream)
            tracking.log(study, record)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*params.cell(sys.argv, "workloads"))
