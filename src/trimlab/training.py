"""Training and fine-tuning by one loop: SGD, AMP, resumable to the bit on a CPU.

Nothing random is kept between steps: order, augmentation and dropout of a step are drawn from (seed, epoch, step). So a
resumable checkpoint is weights, momentum and a position, and a killed run ends where an uninterrupted one does.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trimlab import checkpoint, data, fingerprint, machine, models, onednn, paths, progress
from trimlab.errors import UserError
from trimlab.measure import memory
from trimlab.measure.device import gpu, has_native_bf16, nvidia_driver
from trimlab.params import Params, PruningPoint, Recipe, TrainingPrecision, Workload, digest_of
from trimlab.records import Device, Epoch, Training, commit, now, sha256_of, write

UsedPrecision = Literal["fp32", "tf32", "bf16", "fp16"]
OnEpoch = Callable[[Epoch], None]

SAVE_EVERY_SECONDS = 60.0
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Teacher:
    """The unpruned model whose soft labels guide fine-tuning (Hinton et al. 2015)."""

    model: nn.Module
    weight: float
    """Of the soft labels against the true ones, in [0, 1]."""
    temperature: float


@dataclass
class Position:
    """How far a training has come; what a resumable checkpoint says besides tensors."""

    epoch: int = 0
    """Whole epochs done."""
    step: int = 0
    """Steps done in the current epoch."""
    seconds: float = 0.0
    """Spent in the current epoch's steps."""
    loss_sum: float = 0.0
    """Over the steps of the current epoch."""
    correct: float = 0.0
    """Training images named rightly in them."""
    resumptions: int = 0
    """How often the training was interrupted and went on: its epoch times then come from several processes."""
    curve: list[Epoch] = field(default_factory=list)


def train_workload(study: Params, workload: str, seed: int, on_epoch: OnEpoch) -> Training:
    """Train one workload with one seed, or take its given weights; write weights and record.

    Args:
        study: the whole params.
        workload: a key of `workloads`.
        seed: one of the study's.
        on_epoch: called after every epoch.

    Raises:
        UserError: the dataset is missing or too small to calibrate with, or the given weights do not fit.
    """
    forget_peak_memory()
    spec = study.workloads[workload]
    dataset = data.load_for(spec)
    if any(variant.workload == workload and variant.precisions for variant in study.variants.values()):
        data.calibration(dataset, study.quantization.calibration_images)  # refuse too many now, not after hours
    given = Path(spec.weights) != paths.NO_FILE
    if given:
        model = checkpoint.rebuild(spec.model, dataset.num_classes, checkpoint.read_weights(Path(spec.weights)))
    else:
        model = models.build(spec.model, dataset.num_classes, seed)
    _probe(model, spec, dataset)
    recipe, precision = study.recipe(workload), resolve(spec.precision)
    scratch = scratch_file(__name__, precision, study.training_digest(workload), dataset.sha256, str(seed))
    with machine.exclusive(f"train {workload}") as watch:
        done = Position() if given else fit(
            model, dataset, study.data.split, recipe, precision, seed,
            scratch=scratch, label=f"train {workload}", on_epoch=on_epoch,
        )  # fmt: skip
        labels = predict(model, dataset, study.data.split)
    path = paths.weights_file(paths.trained(workload), seed)
    checkpoint.save(model, path, {"model": spec.model, "num_classes": str(dataset.num_classes)})
    record = Training(
        **lineage(study, workload, dataset, seed, path),
        params_digest=study.training_digest(workload),
        contended=watch.contended,
        origin="file" if given else "trained",
        precision=precision,
        epochs=len(done.curve),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        top1_accuracy=accuracy(labels, dataset, study.data.split),
        num_params=count_params(model),
        size_bytes=size_bytes(model),
        macs=count_macs(model, dataset.image_shape),
        train_seconds=sum(epoch.seconds for epoch in done.curve),
        resumptions=done.resumptions,
        peak_memory_bytes=peak_memory_bytes(),
        curve=done.curve,
    )
    write(record, paths.record_file(paths.trained(workload), seed))
    finish(scratch)
    return record


def _probe(model: nn.Module, spec: Workload, dataset: data.Dataset) -> None:
    """Refuse what does not go through the model: weights that fit nowhere, images too small for it."""
    shape = dataset.image_shape
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
        if not logits.isfinite().all():
            raise ValueError("its outputs are not finite")
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        given = f" with weights {spec.weights}" if Path(spec.weights) != paths.NO_FILE else ""
        raise UserError(
            f"{spec.model}{given} does not take {shape[1]}×{shape[2]} images of {shape[0]} channels ({reason}): "
            "give weights of this model, or another model"
        ) from None


def fine_tune_recipe(recipe: Recipe, point: PruningPoint) -> Recipe:
    """Return a workload's recipe with a pruning point's epochs, learning rate and schedule."""
    return recipe.model_copy(
        update={
            "epochs": point.epochs,
            "learning_rate": point.learning_rate,
            "schedule": point.schedule,
            "warmup": point.warmup,
            "low_resolution": [],
        }
    )


def fit(
    model: nn.Module,
    dataset: data.Dataset,
    split: str,
    recipe: Recipe,
    precision: UsedPrecision,
    seed: int,
    *,
    scratch: Path,
    label: str,
    on_epoch: OnEpoch,
    teacher: Teacher | None = None,
) -> Position:
    """Train a model in place and return how it went; goes on from `scratch` where that exists.

    Args:
        model: any classifier of (N, C, H, W) images.
        dataset: what to train on.
        split: `test` trains on the whole training set, `holdout` on the rest of it.
        recipe: epochs, learning rate and so on.
        precision: what to compute in.
        seed: decides order and augmentation.
        scratch: the resumable checkpoint; put aside by `finish`, not here, so that a kill after the last epoch
            loses nothing.
        label: what the progress bar says.
        on_epoch: called after every epoch, for those before a resume as well.
        teacher: the unpruned model, for distillation.
    """
    loop = _Loop(model, dataset, split, recipe, precision, seed, scratch, label, teacher)
    loop.restore()
    for epoch in loop.position.curve:
        on_epoch(epoch)
    with onednn.sliced(model) if loop.device.type == "cpu" else nullcontext():
        while loop.position.epoch < recipe.epochs:
            on_epoch(loop.run_epoch())
    return loop.position


def learning_rate_at(done: float, recipe: Recipe) -> float:
    """Return the learning rate when `done` in [0, 1] of all steps are behind."""
    if done < recipe.warmup:
        return recipe.learning_rate * done / recipe.warmup
    left = 1 - (done - recipe.warmup) / (1 - recipe.warmup)
    decay = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}
    return recipe.learning_rate * decay[recipe.schedule]


def augment(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Translate and mirror a batch, each image by its own draw, without a loop over images.

    Args:
        images: (N, C, H, W) of any type.
        padding: translation by up to so many pixels; what enters is zero.
        flip: mirror half of them.
        generator: a CPU generator, so that every device draws the same.
    """
    count, _, height, width = images.shape
    device = images.device
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(device)
    rows = shifts[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, generator=generator).to(device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + shifts[1]
    # Rows of channels: one gather moves whole pixels, and the result is channels_last already.
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    index = torch.arange(count, device=device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def predict(model: nn.Module, dataset: data.Dataset, split: str) -> Tensor:
    """Return the label that the eager model gives each scored image, in strict FP32: (N,) int64 on the CPU."""
    images, _ = dataset.scored(split)
    return _predict(model, dataset, images, "fp32")


def accuracy(labels: Tensor, dataset: data.Dataset, split: str) -> float:
    """Return the share of scored images that `labels` names rightly, in [0, 1]."""
    return float((labels == dataset.scored(split)[1]).double().mean())


def resolve(precision: TrainingPrecision) -> UsedPrecision:
    """Return what a param's precision means on this device: bf16 only where it is not emulated."""
    cuda = torch.cuda.is_available()
    native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if cuda else has_native_bf16()
    if native_bf16 and precision in ("amp", "auto"):
        return "bf16"
    if cuda and precision == "amp":
        return "fp16"
    return "tf32" if cuda and precision != "fp32" and torch.cuda.get_device_capability() >= (8, 0) else "fp32"


def device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lineage(study: Params, workload: str, dataset: data.Dataset, seed: int, weights: Path) -> dict[str, Any]:
    """Return the fields that a Training and a Pruning record share."""
    return {
        "study": study.study,
        "workload": workload,
        "model": study.workloads[workload].model,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "split": study.data.split,
        "num_classes": dataset.num_classes,
        "num_images": len(dataset.scored(study.data.split)[1]),
        "seed": seed,
        "weights_sha256": sha256_of(weights),
        "commit": commit(),
        "created": now(),
        "device": device_record(),
        "versions": machine.versions("torch", "torchvision", "torch-pruning") | gpu_versions(),
        "normalisation": {"mean": dataset.mean.tolist(), "std": dataset.std.tolist()},
    }


def device_record() -> Device:
    """Return what torch computes on."""
    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        return machine.cpu(threads)
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    return Device.model_validate(gpu(properties.name, capability, properties.total_memory, threads))


def gpu_versions() -> dict[str, str]:
    """Return the versions of CUDA and the driver, as a GPU's measurements have them; none without a GPU."""
    if not torch.cuda.is_available():
        return {}
    driver = nvidia_driver()
    return {"cuda": str(torch.version.cuda), **({"driver": driver} if driver else {})}


def scratch_file(module: str, precision: UsedPrecision, *identity: str) -> Path:
    """Return where the resumable checkpoint of a training lies: by all that decides its weights.

    Args:
        module: the one that trains: its code, what that imports, and torch's version are part of the digest.
        precision: what is computed in.
        identity: digests of params and data, and the seed.
    """
    digest = digest_of(fingerprint.of(module), torch.__version__, precision, *identity)
    return paths.project_root() / paths.SCRATCH / f"{digest}.safetensors"


def finish(scratch: Path) -> None:
    """Put a resumable checkpoint aside: its training is on record, but DVC has not kept the output yet.

    A kill in between, or in the next seed, makes DVC delete the output; the cell then ends at once from here.
    `paths.forget_finished` deletes it when the report is rendered.
    """
    if scratch.exists():
        scratch.replace(paths.finished(scratch))


def count_params(model: nn.Module) -> int:
    """Return the number of parameters, buffers left out."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image."""
    was_training, where = model.training, next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *image_shape, device=where))
    model.train(was_training)
    return int(counter.get_total_flops()) // 2


def peak_memory_bytes() -> int:
    """Return the peak of the process's resident memory, or of allocated memory on a GPU, since `forget_peak_memory`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak_bytes()


def forget_peak_memory() -> None:
    """Start `peak_memory_bytes` anew: one process trains several seeds."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        memory.forget_peak()


@contextmanager
def computing_in(precision: UsedPrecision) -> Iterator[None]:
    """Run a block in a precision: autocast for bf16 and fp16, TF32 or strict FP32 otherwise."""
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with fp32_products(precision), torch.autocast(device().type, low, enabled=low is not None):
        yield


@contextmanager
def fp32_products(precision: UsedPrecision) -> Iterator[None]:
    """Let a GPU multiply float32 in TF32 or strictly, in a block alone; backward passes need it without autocast."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def _predict(model: nn.Module, dataset: data.Dataset, images: Tensor, precision: UsedPrecision) -> Tensor:
    was_training, where = model.training, device()
    model.to(where).eval()
    labels = []
    with torch.no_grad(), computing_in(precision):
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = dataset.normalise(images[start : start + EVALUATION_BATCH].to(where))
            labels.append(model(batch.contiguous(memory_format=torch.channels_last)).argmax(1).cpu())
    model.train(was_training)
    return torch.cat(labels)


class _Loop:
    """One training under way: model, optimizer and position, and the checkpoint that holds all three."""

    def __init__(
        self,
        model: nn.Module,
        dataset: data.Dataset,
        split: str,
        recipe: Recipe,
        precision: UsedPrecision,
        seed: int,
        scratch: Path,
        label: str,
        teacher: Teacher | None,
    ) -> None:
        self.device = device()
        self.model = cast(nn.Module, model.to(self.device, memory_format=torch.channels_last)).train()  # type: ignore[call-overload]
        self.teacher = teacher
        if teacher is not None:
            teacher.model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.dataset, self.split, self.recipe, self.precision = dataset, split, recipe, precision
        self.seed, self.scratch, self.label = seed, scratch, label
        self.optimizer = _optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        images, labels = dataset.trained_on(split)
        self.native = images.shape[-1]
        self.images, self.labels = {self.native: images.to(self.device)}, labels.to(self.device)
        self.position = Position()
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.saved_at = time.monotonic()
        self.started = time.perf_counter()

    @property
    def steps(self) -> int:
        """Steps an epoch; a last batch of one image is left out (BatchNorm cannot take it)."""
        count, size = len(self.labels), self.recipe.batch_size
        return count // size + (count % size > 1)

    def run_epoch(self) -> Epoch:
        """Do what is left of the current epoch."""
        at = self.position
        size = self._image_size(at.epoch)
        images, order = self._images_at(size), self._order(at.epoch)
        name = f"{self.label} epoch {at.epoch + 1}/{self.recipe.epochs}"
        batches = torch.split(order, self.recipe.batch_size)[at.step : self.steps]
        self.started = time.perf_counter()
        for batch in progress.bar(batches, name, start=at.step, total=self.steps):
            self._step(images, batch.to(self.device))
            at.step += 1
            if time.monotonic() - self.saved_at > SAVE_EVERY_SECONDS:
                self._collect()
                self.save()
                self.started = time.perf_counter()
        self._collect()
        return self._end_epoch(size)

    def _collect(self) -> None:
        """Stop the clock and bring the sums home: once in a while, because it waits for a GPU's queue."""
        at = self.position
        at.loss_sum, at.correct = self.sums.tolist()
        at.seconds += time.perf_counter() - self.started
        # In fp16 the scaler skips a step whose loss overflowed; nothing recovers from not-a-number.
        if math.isnan(at.loss_sum) or (math.isinf(at.loss_sum) and self.precision != "fp16"):
            raise UserError(
                f"{self.label}: the loss is {at.loss_sum} in epoch {at.epoch + 1}: "
                f"lower the learning rate (its peak is {self.recipe.learning_rate})"
            )

    def _end_epoch(self, size: int) -> Epoch:
        at = self.position
        trained = min(len(self.labels), self.steps * self.recipe.batch_size)
        last = at.epoch + 1 == self.recipe.epochs
        scored = last or (at.epoch + 1) % self.recipe.evaluate_every == 0
        epoch = Epoch(
            epoch=at.epoch + 1,
            image_size=size,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            train_loss=at.loss_sum / self.steps,
            train_accuracy=at.correct / trained,
            top1_accuracy=self._score() if scored else None,
            seconds=at.seconds,
            images_per_second=trained / at.seconds,
        )
        self.position = Position(epoch=at.epoch + 1, resumptions=at.resumptions, curve=[*at.curve, epoch])
        self.sums.zero_()
        self.save()
        top1 = "" if epoch.top1_accuracy is None else f", top-1 {epoch.top1_accuracy:.2%}"
        progress.say(
            f"{self.label}: epoch {epoch.epoch}/{self.recipe.epochs}, loss {epoch.train_loss:.3f}, "
            f"{epoch.images_per_second:.0f} images/s{top1}"
        )
        return epoch

    def _score(self) -> float:
        images, labels = self.dataset.scored(self.split)
        found = _predict(self.model, self.dataset, images, self.precision)
        return float((found == labels).double().mean())

    def _step(self, images: Tensor, batch: Tensor) -> None:
        at, recipe = self.position, self.recipe
        draw = torch.Generator().manual_seed(_mix(self.seed, at.epoch, at.step + 1))
        torch.manual_seed(_mix(self.seed, at.epoch, at.step + 1))  # dropout, where a model has it
        self._set_learning_rate((at.epoch * self.steps + at.step) / (recipe.epochs * self.steps))
        padding = math.ceil(recipe.crop_padding * images.shape[-1] / self.native)
        pixels = augment(images[batch], padding, recipe.flip, draw)
        inputs = self.dataset.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with computing_in(self.precision):
            logits = self.model(inputs)
            loss = self._loss(logits, self.labels[batch], inputs)
        self.optimizer.zero_grad(set_to_none=True)
        with fp32_products(self.precision):
            torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        right = (logits.detach().argmax(1) == self.labels[batch]).sum()
        self.sums += torch.stack([loss.detach().double(), right.double()])

    def _loss(self, logits: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return hard
        with torch.no_grad():
            targets = self.teacher.model(inputs).float()
        return (1 - self.teacher.weight) * hard + self.teacher.weight * _soft_loss(
            logits.float(), targets, self.teacher.temperature
        )

    def _set_learning_rate(self, done: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(done, self.recipe)

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        return torch.randperm(len(self.labels), generator=generator)

    def _image_size(self, epoch: int) -> int:
        for stage in self.recipe.low_resolution:
            if epoch < stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return self.native

    def _images_at(self, size: int) -> Tensor:
        """Return the training images at a size, resized once, not at every step."""
        if size not in self.images:
            chunks = torch.split(self.images[self.native], 2000)
            small = [_resize(chunk, size) for chunk in chunks]
            self.images = {self.native: self.images[self.native], size: torch.cat(small)}
        return self.images[size]

    def save(self) -> None:
        """Write the resumable checkpoint; it appears whole or not at all."""
        at = self.position
        state = {f"model.{key}": value for key, value in self.model.state_dict().items()}
        for index, buffer in self._momenta():
            state[f"momentum.{index}"] = buffer
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        position = {**vars(at), "curve": [epoch.model_dump() for epoch in at.curve]}
        told = {"position": json.dumps(position), "scaler": json.dumps(self.scaler.state_dict())}
        self.scratch.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.scratch.with_suffix(".tmp")
        save_file(tensors, scratch, metadata=told)
        scratch.replace(self.scratch)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the resumable checkpoint, if there is one."""
        found = [path for path in (self.scratch, paths.finished(self.scratch)) if path.exists()]
        if not found:
            return
        try:
            with safe_open(found[0], framework="pt") as file:
                told = file.metadata()
            tensors = load_file(found[0], device=str(self.device))
        except SafetensorError:
            progress.say(f"{self.label}: the resumable checkpoint {found[0]} is damaged: starting again")
            return
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        for index, parameter in enumerate(self._parameters()):
            if f"momentum.{index}" in tensors:
                self.optimizer.state[parameter]["momentum_buffer"] = _like(tensors[f"momentum.{index}"], parameter)
        self.scaler.load_state_dict(json.loads(told["scaler"]))
        position = json.loads(told["position"])
        curve = [Epoch.model_validate(epoch) for epoch in position.pop("curve")]
        self.position = Position(**position, curve=curve)
        self.position.resumptions += self.position.epoch < self.recipe.epochs
        self.sums = torch.tensor([self.position.loss_sum, self.position.correct], dtype=torch.float64).to(self.device)
        progress.say(f"{self.label}: going on at epoch {self.position.epoch + 1}, step {self.position.step}")

    def _parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]

    def _momenta(self) -> Iterator[tuple[int, Tensor]]:
        for index, parameter in enumerate(self._parameters()):
            if "momentum_buffer" in self.optimizer.state[parameter]:
                yield index, self.optimizer.state[parameter]["momentum_buffer"]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    # Norms and biases have one dimension; decaying them costs accuracy and regularises nothing.
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _soft_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the divergence from the teacher's softened labels, scaled to the gradient of a hard loss."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(targets / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def _resize(images: Tensor, size: int) -> Tensor:
    small = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.round().clamp(0, 255).to(torch.uint8)


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Lay a tensor out in memory as its parameter is: the optimizer's sums then round alike."""
    return torch.empty_like(parameter).copy_(tensor)


def _mix(seed: int, epoch: int, step: int) -> int:
    """Return one number for a position in training."""
    return int(digest_of(seed, epoch, step)[:15], 16)
