"""FeCAM (Goswami et al., 2023): Mahalanobis distance to each class mean, with each class's own
covariance, shrunk and normalised to a correlation.

Trained: the job's adapter on the first task only, with a throw-away linear head, then frozen
(without an adapter nothing, as in the paper's runs on a pre-trained transformer). Remembered: mean
and covariance of every class, and the inverse of its normalised covariance. Differs from the
paper: no Tukey transform, which is a power of features that are never negative; a transformer's are
not. The authors' transformer scripts take the covariance of unit features; here, as in the paper,
only the distance is between unit vectors. A class that comes back pools its rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class FeCAM(Strategy):
    """argmin_c (x - mu_c)^T R_c^-1 (x - mu_c) with x and mu_c of unit length."""

    diagonal: float = 1.0
    """gamma_1, how often the mean variance is added to the variances. 1 is the paper's, for
    hundreds of rows a class; with far fewer rows than features a correlation is mostly noise, and
    100 is better. 0 leaves a singular matrix where a class has fewer rows than features."""
    off_diagonal: float = 0.0
    """gamma_2, how often the mean covariance is added to the covariances: 0 in the authors' runs on
    a transformer, whose features sum to almost the same in every row, 1 in those on a CNN."""

    family = "prototype"
    paper = (
        "FeCAM: Exploiting the Heterogeneity of Class Distributions "
        "in Exemplar-Free Continual Learning"
    )
    year = 2023
    classes_only = "it answers by the distance to each class's Gaussian"
    trained_tasks = "first"

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["diagonal", "off_diagonal"])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """The adapter has learned the first task: now it stays."""
        if task.index == 1 and MAIN in model.adapters:
            model.freeze(MAIN)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """First task: L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features of each class."""
        return Summary(moments(model(batch.inputs).features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Pool with the past, and invert the covariances of the task's classes."""
        assert review is not None
        gaussians = Gaussians.of(review.sums)
        inverse = torch.zeros_like(gaussians.covariance)
        new = (gaussians.count > 0).nonzero()[:, 0]
        if self.state:
            inverse[: len(self.state["inverse"])] = self.state["inverse"]
            gaussians = Gaussians(**self.state["gaussians"]).pooled(gaussians)
        shrunk = shrunk_covariance(gaussians.covariance[new], self.diagonal, self.off_diagonal)
        normalised = correlation(shrunk).double()
        inverse[new] = torch.linalg.pinv(normalised, rtol=1e-5, hermitian=True).float()
        self.state.update(gaussians=dict(vars(gaussians)), inverse=inverse)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Minus the distances [N, classes]; minus infinity for a class never seen."""
        gaussians = Gaussians(**self.state["gaussians"])
        features = F.normalize(model(inputs).features, dim=1)
        difference = features - F.normalize(gaussians.mean, dim=1)[:, None]
        distance = ((difference @ self.state["inverse"]) * difference).sum(dim=2).T
        return -distance.masked_fill(gaussians.count == 0, float("inf"))


def shrunk_covariance(covariance: Tensor, diagonal: float, off_diagonal: float) -> Tensor:
    """Sigma + gamma_1 V_1 I + gamma_2 V_2 (1 - I) with V_1 the mean of the diagonal of Sigma and
    V_2 that of the rest; of each [C, d, d]."""
    dim = covariance.shape[-1]
    identity = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(dim=1)
    variance = (trace / dim)[:, None, None]
    rest = ((covariance.sum(dim=(1, 2)) - trace) / (dim * (dim - 1)))[:, None, None]
    return covariance + diagonal * variance * identity + off_diagonal * rest * (1 - identity)


def correlation(covariance: Tensor) -> Tensor:
    """Sigma_ij / (sigma_i sigma_j), of each [C, d, d]; the identity for a class of one row."""
    deviation = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
    scaled = covariance / (deviation[:, :, None] * deviation[:, None, :])
    return scaled.diagonal_scatter(torch.ones_like(deviation), dim1=1, dim2=2)
