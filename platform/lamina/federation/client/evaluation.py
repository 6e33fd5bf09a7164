"""Evaluation: which rows are answered rightly by the global state, or by what a client serves."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.core import Part
from lamina.federation.client.client_state import ClientState
from lamina.federation.client.setup import ClientSetup
from lamina.federation.fitness import answers_midway
from lamina.federation.update import ClientUpdate
from lamina.federation.work import Download, Flags, Item
from lamina.training.evaluate import answered_rightly, known_task


@dataclass(frozen=True)
class LocalEvaluation:
    """Which validation and test rows of a task are answered rightly."""

    setup: ClientSetup

    def served(self, download: Download, item: Item, client_state: ClientState) -> Flags:
        """Which rows are right: of the item's client, its own rows of the item's task, in the order
        of `manifest.rows`. Where the item has no client, the global state answers all rows."""
        tensors = self.setup.starting_tensors(download.state, item.client, client_state, item.task)
        return self._flags(download, tensors, item.task, item.client, client_state)

    def alone(
        self, download: Download, item: Item, update: ClientUpdate, client_state: ClientState
    ) -> Flags:
        """Which rows are right of a client that has just trained, before others are averaged in:
        its own rows of its current task. Empty where the strategy cannot answer before its
        review."""
        if not answers_midway(type(self.setup.strategy)):
            return {}
        assert item.client is not None
        task = self.setup.delivery(item.client, item.time).task
        start = self.setup.starting_tensors(download.state, item.client, client_state, task)
        tensors = {**start, **update.tensors}
        return self._flags(download, tensors, task, item.client, client_state)

    def _flags(
        self,
        download: Download,
        tensors: Mapping[str, Tensor],
        task: int,
        client: int | None,
        client_state: ClientState,
    ) -> Flags:
        setup = self.setup
        shared_model = client_state.shared_model or download.shared_model
        assert shared_model is not None, "nobody answers before the first boundary"
        model, strategy = setup.loaded_model(shared_model, tensors, download.state.ledger)
        experience = setup.stream.experiences[task]
        flags: Flags = {}
        parts: tuple[Part, ...] = ("validation", "test")
        for part in parts:
            data = experience.part(part)
            order = data.ids.argsort()
            if client is not None:
                own = setup.manifest.rows(client, part, task)
                order = order[torch.searchsorted(data.ids[order], own)]
            known = known_task(setup.stream, experience.task)
            size = setup.training.evaluation_batch_size
            flags[part] = answered_rightly(strategy, model, data[order], known, size)
        return flags
