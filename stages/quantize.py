"""Export a variant in its precisions, and calibrate INT8: `quantize/VARIANT/`."""

import sys

from trimlab import config, errors, paths, progress


def main(study: config.Params, variant: str) -> None:
    """Write one variant's ONNX files."""
    from trimlab import machine
    from trimlab.quantize import stage as quantize_stage

    with machine.one_at_a_time(f"quantize/{variant}"):
        quantize_stage.quantize_variant(study, variant)
    progress.wrote(paths.quantized(variant))


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*config.cell(sys.argv, "variants"))
