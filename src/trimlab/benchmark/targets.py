"""What is measured: files in runtimes."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

from trimlab import config, formats, paths
from trimlab.formats import Computed
from trimlab.quantize import onnx_files


class Target(NamedTuple):
    """One file in one runtime."""

    variant: str
    seed: int
    precision: Computed
    runtime: str

    @property
    def file(self) -> Path:
        """The ONNX file: TensorRT has an INT8 file of its own; what a runtime converts itself is the FP32 one."""
        symmetric = self.precision == "int8" and self.on_gpu
        made = formats.BY_NAME[self.precision].file
        return paths.onnx_file(self.variant, self.seed, made, onnx_files.SYMMETRIC if symmetric else "")

    @property
    def seven_bit_file(self) -> Path | None:
        """The INT8 file for processors that saturate with 8-bit weights; None where it is not needed."""
        if self.precision != "int8" or self.on_gpu:
            return None
        return paths.onnx_file(self.variant, self.seed, "int8", onnx_files.SEVEN_BIT)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.runtime == "tensorrt"


def targets(study: config.Params, variant: str, wanted: Sequence[config.Runtime]) -> Iterator[Target]:
    """Yield what is measured of a variant: its seeds, in its precisions as each wanted runtime computes them."""
    precisions = study.variants[variant].precisions
    for seed, runtime in product(study.seeds, wanted):
        for known in formats.of_runtime(runtime):
            if known.asked_as in precisions:
                yield Target(variant, seed, known.name, runtime)
