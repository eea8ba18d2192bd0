"""Export a variant in its precisions, INT8 calibrated: `quantize/VARIANT/`."""

import sys

from trimlab import errors, params


def main(study: params.Params, variant: str) -> None:
    """Write one variant's ONNX files."""
    from trimlab import machine, quantization

    with machine.one_at_a_time(f"quantize/{variant}"):
        quantization.quantize_variant(study, variant)


if __name__ == "__main__":
    with errors.one_line_errors():
        main(*params.cell(sys.argv, "variants"))
