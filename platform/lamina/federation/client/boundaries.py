"""Task boundaries: what the server does at one, and the sums over clients' rows that it needs."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import KEYS, Batch, Summary, Task
from lamina.federation.checking import Expected, Slot, leaving, slots_of
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.setup import ClientSetup, Look, to_send
from lamina.federation.fitness import trains
from lamina.federation.privacy.released import ReleaseRule, released_sums
from lamina.federation.shared_model import SharedModel, shared_model_of
from lamina.federation.timetable import arrived
from lamina.federation.update import ClientUpdate
from lamina.federation.work import Download, Item
from lamina.strategies.base import Strategy


@dataclass(frozen=True)
class Boundaries:
    """The work before and after a task. Where there is no shared model yet, the strategy is set up
    first."""

    setup: ClientSetup

    def cross(
        self, download: Download, task: int, summary: Summary | None, *, end: bool
    ) -> tuple[SharedModel, dict[str, Tensor]]:
        """The server's side: the strategy's `begin_task`, or (`end`) its `end_task`, with the
        clients' summed summaries. Returns the shared model and the tensors that are trained from
        now on."""
        setup = self.setup
        model, strategy = self._model(download, task, end)
        if setup.in_step or not trains(type(setup.strategy), setup.adapter is not None, task):
            now = setup.stream.experiences[task].task
            (strategy.end_task if end else strategy.begin_task)(model, now, summary)
        tensors = to_send(model.parameters())
        return shared_model_of(model, strategy, tensors), tensors

    def summarise(self, download: Download, item: Item, *, end: bool) -> ClientUpdate:
        """A client's side: `preview`, or (`end`) `review`, of the rows of a task that came to it in
        a stream step. What leaves the client are sums, and nothing else."""
        setup, step = self.setup, int(item.time)
        assert item.client is not None
        model, strategy = self._model(download, item.task, end)
        deliveries = arrived(setup.manifest, item.client, step)
        ids = [each.rows for each in deliveries if each.task == item.task]
        task = setup.stream.experiences[item.task].task
        data = replace(setup.rows(torch.cat(ids)), task=task)
        phase = "review" if end else "preview"
        rule = None if setup.privacy is None else setup.privacy.summaries
        look = _look(strategy, end)
        if rule is None:
            found = setup.summed(look, model, data)
            sums, num_rows = {} if found is None else found.sums, len(data)
        else:
            names = (step, item.task, item.client, phase)
            sums = self._released(look, model, data, rule, *names)
            num_rows = rule.num_rows(data.labels)
        update = ClientUpdate(
            client=setup.manifest.clients[item.client].name,
            round=step,
            tensors={},
            num_rows=num_rows,
            phase=phase,
            base=download.base,
            summaries=to_send(sums),
        )
        declared = self.declared(download, item.task, end=end)
        return leaving(update, Expected(step, phase, {}, download.base, declared))

    def declared(self, download: Download, task: int, *, end: bool) -> dict[str, Slot]:
        """The sums that `summarise` may send: those of a row without content, so that no shape
        depends on how many rows there are or on what is in them.

        Raises InputError for a strategy whose summary keeps rows.
        """
        model, strategy = self._model(download, task, end)
        experience = self.setup.stream.experiences[task]
        row = blank(replace(experience.train[:1], task=experience.task), experience.task)
        found = self.setup.summed(_look(strategy, end), model, row)
        return slots_of({} if found is None else found.sums)

    def _model(self, download: Download, task: int, end: bool) -> tuple[AdaptedModel, Strategy]:
        """The model and strategy as a task is about to begin, with its classes, or to end."""
        setup, state = self.setup, download.state
        if download.shared_model is None:
            model, strategy = setup.new_model()
            strategy.setup(model)
        else:
            tensors = setup.starting_tensors(state, None, ClientState(), task)
            model, strategy = setup.loaded_model(download.shared_model, tensors, state.ledger)
        if not end:
            experiences = setup.stream.experiences
            seen = experiences[: task + 1] if setup.in_step else experiences
            known = max(max(each.task.classes, default=-1) for each in seen)
            model.grow_head(known + 1)
        return model, strategy

    @torch.no_grad()
    def _released(
        self, look: Look, model: AdaptedModel, data: Batch, rule: ReleaseRule, *names: str | int
    ) -> dict[str, Tensor]:
        """The sums over rows as a privacy rule lets them leave. `names` name their noise."""
        device, chunk = self.setup.backbone.device, self.setup.training.evaluation_batch_size
        return released_sums(
            lambda rows: look(model, rows.to(device)),
            data,
            rule,
            self.setup.seed,
            *names,
            chunk=chunk,
        )


def blank(row: Batch, task: Task) -> Batch:
    """A row of the form of another, of which nothing is left: no token or pixel, no key by which
    kept features are found, and the first class of a task."""
    # An image that is not decoded yet would go on being there.
    row = row.to(row.labels.device)
    inputs = {
        name: torch.ones_like(each) if name == "attention_mask" else torch.zeros_like(each)
        for name, each in row.inputs.items()
        if name != KEYS
    }
    classes = task.classes or (0,)
    return replace(row, inputs=inputs, labels=torch.full_like(row.labels, classes[0]))


def _look(strategy: Strategy, end: bool) -> Look:
    return strategy.review if end else strategy.preview
