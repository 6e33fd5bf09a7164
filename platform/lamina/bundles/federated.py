"""The bundle of a federation: its global model, which answers without any client."""

from pathlib import Path

from lamina.backbones.backbone import Backbone
from lamina.bundles.facts import Row
from lamina.bundles.writing import Reached, write_bundle
from lamina.config.build import build_learner
from lamina.config.job import Job
from lamina.core import Batch, Part, Stream
from lamina.federation.server.outcome import global_matrix, summaries_of
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.scores import EVALUATED
from lamina.federation.shared_model import lay_out
from lamina.training.evaluate import answers_by_task
from lamina.training.finite import NotFiniteError
from lamina.training.learner import Learner


def why_no_bundle(job: Job) -> str | None:
    """Why a federation has no one model that answers; None where it has."""
    assert job.federation is not None
    aggregator = job.federation.aggregator
    if aggregator.keeps_client_state:
        return f"aggregator {aggregator.name!r} leaves each client a model of its own"
    if aggregator.by_task:
        return f"aggregator {aggregator.name!r} leaves each task tensors of its own"
    return None


def global_learner(
    job: Job, stream: Stream[Batch], backbone: Backbone, run: FederatedRun
) -> Learner:
    """A learner that knows what the global state of a finished run does, with its answers to the
    test and validation parts. What clients keep, their memories for one, it has not.

    Raises NotFiniteError where the logits are not finite.
    """
    server = run.server
    assert job.federation is not None
    assert server.shared_model is not None, "nobody answers before the first boundary"
    learner = build_learner(job, stream, backbone)
    tensors = job.federation.aggregator.starting_tensors(server.global_state)
    ledger = server.global_state.ledger
    lay_out(server.shared_model, tensors, ledger, learner.model, learner.strategy)
    learner.next_task = len(stream)
    size = job.training.evaluation_batch_size
    for part in EVALUATED:
        asked = (learner.strategy, learner.model, stream, part, size)
        learner.scores.answers[part] = answers_by_task(*asked)
    return learner


def write_global_bundle(
    job: Job,
    stream: Stream[Batch],
    backbone: Backbone,
    run: FederatedRun,
    folder: Path,
    *,
    name: str,
    trial: str,
) -> str | None:
    """Write the bundle of a finished run: see `write_bundle`. Its matrices are of the global state
    on the rows of all, a row after each step of the stream. Returns why there is no model to write,
    and None where there is one."""
    if why := why_no_bundle(job):
        return why
    try:
        learner = global_learner(job, stream, backbone, run)
    except NotFiniteError as error:
        return str(error)
    rows = {part: _rows(run, part) for part in EVALUATED}
    reached = Reached(summaries_of(run), rows["validation"], rows["test"])
    write_bundle(job, learner, folder, name=name, trial=trial, reached=reached)
    return None


def _rows(run: FederatedRun, part: Part) -> tuple[Row, ...]:
    matrix = global_matrix(run.server.scores, run.settings.manifest, part)
    return tuple(tuple(row) for row in matrix.rows)
