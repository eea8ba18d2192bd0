"""Prune and fine-tune a variant, once a seed: `prune/VARIANT/`."""

import sys

from trimlab import errors, params


def main(study: params.Params, variant: str) -> None:
    """Prune one variant with every seed."""
    from trimlab import machine, pruning, tracking

    with machine.one_at_a_time(f"prune/{variant}"):
        for seed in study.seeds:
            with tracking.live(study, "prune", variant, seed) as stream:
                record = pruning.prune_variant(study, variant, seed, on_epoch=stream)
            tracking.log(study, record)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*params.cell(sys.argv, "variants"))
