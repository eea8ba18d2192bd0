"""What a training costs, whatever computes it: multiply-accumulates, by which comparisons are made at equal budget."""

from collections import Counter

from torch import nn

from trimlab.config import Recipe
from trimlab.data.dataset import Dataset
from trimlab.models.facts import count_macs
from trimlab.records import TRAINING_PASSES
from trimlab.train.batches import image_size, images_per_epoch
from trimlab.train.distill import Teacher


def training_macs(
    model: nn.Module, dataset: Dataset, split: str, recipe: Recipe, teacher: Teacher | None = None
) -> float:
    """Return the multiply-accumulates of a training: images × MACs × `TRAINING_PASSES`.

    Epochs on smaller images are counted at their size, and a teacher's forward pass once an image, or once a cached
    label. Evaluation is left out.

    Args:
        model: as it is trained, with its widths.
        dataset: what it is trained on.
        split: `test` trains on the whole training set, `holdout` on the rest of it.
        recipe: epochs, batch size, sizes of images.
        teacher: the unpruned model, for distillation.
    """
    channels, _, native = dataset.image_shape
    count = len(dataset.trained_on(split))
    images = images_per_epoch(count, recipe.batch_size)
    epochs = Counter(image_size(recipe, epoch, native) for epoch in range(recipe.epochs))

    def cost(size: int) -> int:
        taught = count_macs(teacher.model, (channels, size, size)) if teacher and not teacher.cache else 0
        return TRAINING_PASSES * count_macs(model, (channels, size, size)) + taught

    total = images * sum(number * cost(size) for size, number in epochs.items())
    if teacher and teacher.cache:
        total += count * (1 + bool(recipe.flip)) * count_macs(teacher.model, dataset.image_shape)
    return float(total)
