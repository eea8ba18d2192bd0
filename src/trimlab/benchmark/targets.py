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
        known = formats.BY_NAME[self.precision]
        flavour = onnx_files.SYMMETRIC if known.quantized and self.on_gpu else ""
        return paths.onnx_file(self.variant, self.seed, known.file, flavour)

    @property
    def seven_bit_file(self) -> Path | None:
        """The INT8 file for processors that saturate with 8-bit weights; None where it is not needed."""
        if not formats.BY_NAME[self.precision].quantized or self.on_gpu:
            return None
        return paths.onnx_file(self.variant, self.seed, self.precision, onnx_files.SEVEN_BIT)

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
