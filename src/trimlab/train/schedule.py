"""Learning rate schedules, and the recipe of fine-tuning."""

import math

from trimlab.config import PruningPoint, QuantizationAwareTraining, Recipe, Sparsity


def fine_tune_recipe(
    recipe: Recipe, point: PruningPoint | QuantizationAwareTraining | Sparsity, epochs: int | None = None
) -> Recipe:
    """Return a workload's recipe with a fine-tuning's learning rate, schedule and epochs, or with those given."""
    return recipe.model_copy(
        update={
            "epochs": point.epochs if epochs is None else epochs,
            "learning_rate": point.learning_rate,
            "schedule": point.schedule,
            "warmup": point.warmup,
            "low_resolution": [],
        }
    )


def learning_rate_at(done: float, recipe: Recipe) -> float:
    """Return the learning rate after the share `done`, in [0, 1], of all steps."""
    if done < recipe.warmup:
        return recipe.learning_rate * done / recipe.warmup
    left = 1 - (done - recipe.warmup) / (1 - recipe.warmup)
    decay = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}
    return recipe.learning_rate * decay[recipe.schedule]
