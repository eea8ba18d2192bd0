"""What a model is built from, as a value: it stands in a checkpoint's metadata, so that later stages build the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trimlab import paths
from trimlab.config import Workload
from trimlab.models import code


class Architecture(NamedTuple):
    """What a model is built from."""

    model: str
    """As in the params: `resnet20`, `torchvision/NAME`, `timm/NAME`, `MODULE:FACTORY`."""
    num_classes: int
    code: Path | None = None
    """The file or package folder of MODULE; None where it belongs to an installed package."""
    code_sha256: str | None = None
    arguments: Mapping[str, Any] = {}
    """Passed to the factory, besides `num_classes`."""
    classifier: str | None = None
    """The name of the layer whose outputs are the classes; None for the last linear one."""

    @classmethod
    def of(cls, workload: Workload, num_classes: int) -> "Architecture":
        """Return a workload's architecture.

        Raises:
            UserError: its code does not exist.
        """
        file = None if workload.code == str(paths.NO_FILE) else Path(workload.code)
        digest = code.sha256(file) if file else None
        return cls(workload.model, num_classes, file, digest, workload.arguments, workload.classifier)

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> "Architecture":
        """Return what `metadata` wrote; older checkpoints name the model and the number of classes alone.

        Raises:
            LookupError, ValueError, TypeError: that is not what the metadata hold.
        """
        model, num_classes = str(metadata["model"]), int(metadata["num_classes"])
        file = metadata.get("code")
        return cls(
            model,
            num_classes,
            Path(file) if file else None,
            metadata.get("code_sha256"),
            dict(json.loads(metadata.get("arguments", "{}"))),
            metadata.get("classifier"),
        )

    def metadata(self) -> dict[str, str]:
        """Return strings for a checkpoint's header."""
        optional = {
            "code": str(self.code) if self.code else None,
            "code_sha256": self.code_sha256,
            "arguments": json.dumps(self.arguments, sort_keys=True) if self.arguments else None,
            "classifier": self.classifier,
        }
        found = {key: value for key, value in optional.items() if value is not None}
        return {"model": self.model, "num_classes": str(self.num_classes), **found}
