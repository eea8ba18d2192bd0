"""A machine on which latencies follow from arithmetic."""

from pathlib import Path

from trimlab import records
from trimlab.models.facts import count_macs


class Machine:
    """A meter whose layers take as long as their multiply-accumulates, and whose files take more by a rule."""

    kept = Path("kept.json")

    def __init__(self, rule, image_shape=(3, 8, 8)):
        self.rule, self.image_shape, self.files = rule, image_shape, 0

    def predicted(self, model):
        return count_macs(model, self.image_shape) / 1e6

    def measured(self, model):
        self.files += 1
        return latency_of(self.rule(self.predicted(model)))

    def record(self, latency, predicted_ms):
        device = {"kind": "cpu", "name": "a", "features": [], "threads": 1, "system": "b"}
        return records.TargetLatency(
            runtime="onnxruntime", runtime_version="1", precision="fp32", device=records.Device(**device),
            latency=latency, predicted_ms=predicted_ms,
        )  # fmt: skip


def latency_of(ms):
    return records.Latency(p50_ms=ms, p90_ms=ms, n=1, batch_size=1)
