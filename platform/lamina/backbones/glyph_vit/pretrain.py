"""The recipe of `glyph_vit`: a vision transformer learns to tell letters apart, so that its
features serve other handwriting.

`python -m lamina.backbones.glyph_vit.pretrain FOLDER` writes a folder that `backbone.name` takes.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lamina.backbones.glyph_vit.glyphs import SIZE, draw, render_glyphs
from lamina.core import generator_of

if TYPE_CHECKING:
    from transformers import ViTModel


@dataclass(frozen=True)
class Recipe:
    """What a pre-training run does."""

    steps: int = 4_000
    batch_size: int = 64
    learning_rate: float = 1e-3
    """Highest, after a warm-up of 4% of the steps and before a cosine to zero."""
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    gentle_steps: int = 1_500
    """Steps over which the distortions grow to their full strength."""
    seed: int = 0
    dim: int = 96
    layers: int = 6
    heads: int = 4
    patch: int = 8
    pictures_to_score: int = 4096


class _Classifier(nn.Module):
    """The transformer with a linear head on its CLS token."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        from transformers import ViTConfig, ViTModel

        super().__init__()
        config = ViTConfig(
            hidden_size=recipe.dim,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            intermediate_size=4 * recipe.dim,
            image_size=SIZE,
            patch_size=recipe.patch,
        )
        self.vit: ViTModel = ViTModel(config)
        positions = _waves(SIZE // recipe.patch, recipe.dim)
        self.vit.embeddings.position_embeddings.data[0, 1:] += positions
        self.head = nn.Linear(recipe.dim, num_classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Pictures [N, SIZE, SIZE] in [0, 1], normalised as the image processor does, to logits."""
        pixels = (pictures * 2 - 1)[:, None].expand(-1, 3, -1, -1)
        logits: Tensor = self.head(self.vit(pixel_values=pixels).last_hidden_state[:, 0])
        return logits


def _waves(side: int, dim: int) -> Tensor:
    """A position of a side x side grid as sines and cosines of its row and column, as large as the
    embedded patches: [side * side, dim]. Learned from nothing, positions take the longest."""
    frequencies = math.pi / side * torch.arange(1, dim // 4 + 1) * 4 * side / dim
    angles = torch.arange(side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    return 0.25 * torch.cat([rows, columns], dim=2).flatten(0, 1)


def pretrain(folder: Path, recipe: Recipe, save_every: int = 500) -> dict[str, float | int]:
    """Train on one core, and write the model to `folder` now and then.

    Returns what the run was and reached; the same stands in `training.json` beside the weights.
    """
    started = time.monotonic()
    glyphs = render_glyphs()
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = _Classifier(recipe, len(glyphs.characters)).train()
    optimiser = torch.optim.AdamW(
        _with_decay(model, recipe.weight_decay), lr=recipe.learning_rate, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _warm_up_and_cosine(recipe.steps))
    generator = generator_of(recipe.seed, "training")
    about: dict[str, float | int] = {"classes": len(glyphs.characters)}
    for step in range(1, recipe.steps + 1):
        strength = min(1.0, 0.3 + 0.7 * step / recipe.gentle_steps)
        pictures, labels = draw(glyphs, recipe.batch_size, generator, strength)
        loss = F.cross_entropy(model(pictures), labels, label_smoothing=recipe.label_smoothing)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % save_every == 0 or step == recipe.steps:
            unseen = draw(glyphs, recipe.pictures_to_score, generator_of(recipe.seed, "scoring"))
            about |= {
                "steps": step,
                "pictures": step * recipe.batch_size,
                "loss": round(loss.item(), 2),
                "accuracy": round(_accuracy(model, *unseen), 4),
                "minutes": round((time.monotonic() - started) / 60, 1),
            }
            _save(model.vit, folder, about)
            print(json.dumps(about), flush=True)
    return about


def _with_decay(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases and LayerNorms do not."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def _warm_up_and_cosine(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 25)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return factor


@torch.no_grad()
def _accuracy(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    model.eval()
    guesses = torch.cat([model(some).argmax(1) for some in pictures.split(256)])
    model.train()
    return float((guesses == labels).float().mean())


def _save(vit: "ViTModel", folder: Path, about: dict[str, float | int]) -> None:
    from transformers import ViTImageProcessorPil

    vit.save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIZE, "width": SIZE}).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(about, indent=2) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model is written")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pretrain(arguments.folder, Recipe(steps=arguments.steps, seed=arguments.seed))


if __name__ == "__main__":
    main()
