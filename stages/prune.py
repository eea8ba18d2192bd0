"""Prune and fine-tune a variant with every seed: `prune/VARIANT/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, variant: str) -> None:
    """Prune one variant."""
    from trimlab import machine
    from trimlab.latency.meter import Meter
    from trimlab.prune import stage as prune_stage
    from trimlab.track import mlflow_runs

    with machine.one_at_a_time(f"prune/{variant}"):
        for seed in study.seeds:
            with mlflow_runs.live(study, "prune", variant, seed) as stream:
                record = prune_stage.prune_variant(study, variant, seed, stream, Meter)
            mlflow_runs.log(study, record)
    progress.wrote(paths.pruned(variant))


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "variants"))
