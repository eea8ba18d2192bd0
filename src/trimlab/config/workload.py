"""The section `workloads`: a model, what it is built from, and where its weights come from."""

import re
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import (
    Field,
    JsonValue,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from trimlab import paths
from trimlab.config.choices import guess
from trimlab.config.sections import NormalisedBy, Section, TrainingPrecision
from trimlab.errors import short

OWN_MODELS = ("resnet18", "resnet20")
LIBRARIES = ("torchvision", "timm")
_LIBRARY_MODEL = re.compile(rf"({'|'.join(LIBRARIES)})/[A-Za-z0-9_][A-Za-z0-9_.-]*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LATER = ("code", "initial")
_MODELS = "use resnet18, resnet20, torchvision/NAME, timm/NAME or MODULE:FACTORY"


class Workload(Section):
    """One model on one dataset, with its training recipe or with existing weights."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    """`resnet18` or `resnet20` (for 32×32 images), `torchvision/NAME`, `timm/NAME`, or your own: `MODULE:FACTORY`, a
    function or class that returns a torch.nn.Module."""
    code: Annotated[str, Field(min_length=1)]
    """The file or package folder that holds MODULE. It is imported, so its code runs. `data/none` for a model of a
    library or of an installed package."""
    arguments: dict[str, JsonValue] = Field({})
    """Passed to the model's factory, besides `num_classes`."""
    classifier: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """The layer whose outputs are the classes, by its name in the model (`head.fc`); null for the last linear one."""
    dataset: str
    """A key of `datasets`."""
    training: str
    """A recipe, as `training.KEY`. Fine-tuning uses its batch size, augmentation and so on, even with `weights`."""
    precision: TrainingPrecision = "auto"
    """`fp32` is strict FP32. `tf32` uses TF32 if the GPU has it. `amp` is torch.amp in bf16, in fp16 on a GPU without
    bf16, and is FP32 on a CPU that would only emulate bf16. `auto` is bf16 where that is faster (a GPU that computes it
    natively, a CPU with AMX, one of AMD with AVX-512 bf16), else `tf32`."""
    initial: Annotated[str, Field(min_length=1, max_length=200)]
    """A weights file from which training starts, or a folder with one a seed; `data/pretrained` for the published
    weights of a library's model, which are downloaded; `data/none` to start from random weights. With another number
    of classes, the classifier starts from random weights."""
    weights: Annotated[str, Field(min_length=1)]
    """A weights file (safetensors or a state dict) that replaces training, or a folder with one a seed,
    `seed0.safetensors`; `data/none` to train."""
    normalisation: NormalisedBy = "dataset"
    """How images are normalised for the model: by the mean and standard deviation of the training set (`dataset`) or of
    ImageNet (`imagenet`), or by `{mean: […], std: […]}`. Existing weights need the values of their training."""

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "Workload":
        problems = filter(None, (self._model_problem(), self._arguments_problem(), self._initial_problem()))
        if found := "\n".join(problems):
            raise ValueError(found)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_files(self, dump: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Take `data/none` for a default of the two fields that older studies lack: their digests stay the same.

        DVC needs both keys in every workload, so they have no default in the params.
        """
        values: dict[str, Any] = dump(self)
        if not info.exclude_defaults:
            return values
        return {key: value for key, value in values.items() if key not in _LATER or value != str(paths.NO_FILE)}

    def _model_problem(self) -> str | None:
        """Say what is wrong with the form of `model` and `code`; whether the model exists is found out by building."""
        if not _FACTORY.fullmatch(self.model):
            if self.code != str(paths.NO_FILE):
                return f"model {short(self.model)} is not a factory in code {short(self.code)}: {_name_in(self.code)}"
            if self.model in OWN_MODELS or _LIBRARY_MODEL.fullmatch(self.model):
                return None
            return f"model {short(self.model)} is unknown: {_MODELS}{guess(self.model, OWN_MODELS)}"
        module = self.model.partition(":")[0]
        if self.code == str(paths.NO_FILE) or module == _module(self.code):
            return None
        if not self.code.endswith(".py") and module.startswith(f"{_module(self.code)}."):
            return None
        return f"model {short(self.model)} is not in code {short(self.code)}: {_name_in(self.code)}"

    def _arguments_problem(self) -> str | None:
        if "num_classes" in self.arguments:
            return "arguments.num_classes is the number of the dataset's classes: remove it"
        loading = [key for key in ("weights", "pretrained") if key in self.arguments]
        if loading and self._library:
            return f"arguments.{loading[0]} would load weights in every stage: set initial to {paths.PRETRAINED}"
        return None

    def _initial_problem(self) -> str | None:
        if self.weights == str(paths.PRETRAINED):
            return f"weights {self.weights} would never be trained on this dataset: set initial to it instead"
        if str(paths.NO_FILE) not in (self.initial, self.weights):
            return f"initial {short(self.initial)} starts a training, which weights replace: set one to {paths.NO_FILE}"
        if self.initial != str(paths.PRETRAINED):
            return None
        if not self._library:
            return f"initial {self.initial} is for models of torchvision and timm: give a weights file"
        if self.normalisation == "dataset":
            return (
                f"normalisation dataset does not fit initial {self.initial}: set how the images of the published "
                "weights were normalised, for example imagenet"
            )
        return None

    @property
    def _library(self) -> str | None:
        name = self.model.partition("/")[0]
        return name if name in LIBRARIES and name != self.model else None


def _module(code: str) -> str:
    """Return the name of the module that a file or package folder is."""
    return PurePosixPath(code).name.removesuffix(".py")


def _name_in(code: str) -> str:
    """Return the remedy for a model that is not named as one in a file or package folder."""
    module = _module(code)
    return f"name it {module}:FACTORY" if module.isidentifier() else "rename the file as a Python module, my_models.py"
