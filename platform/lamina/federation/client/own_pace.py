"""Clients at their own pace: each is at a task of its own, and begins and ends it by itself."""

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lamina.federation.client.client_state import ClientState
from lamina.federation.client.setup import ClientSetup
from lamina.federation.shared_model import SharedModel, shared_model_of
from lamina.federation.state import GlobalState
from lamina.registry import InputError
from lamina.streams.manifest import Delivery


def at_its_task(
    setup: ClientSetup,
    shared_model: SharedModel,
    state: GlobalState,
    tensors: Mapping[str, Tensor],
    delivery: Delivery,
    client_state: ClientState,
) -> SharedModel:
    """The client's own shared model at the task of its delivery, which `client_state` keeps.

    Where the delivery has come since its last round, the task before ends and this one begins.
    `shared_model` is what a new client starts from, `tensors` what this round starts from.

    Raises InputError for a strategy that adds tensors in a later task.
    """
    if client_state.delivery_time == delivery.time:
        assert client_state.shared_model is not None
        return client_state.shared_model
    if client_state.delivery_time is not None:
        shared_model = _end_task(setup, state, delivery.client, client_state)
    model, strategy = setup.loaded_model(shared_model, tensors, state.ledger)
    client_state.task += 1
    task, data = (
        setup.task_of(delivery, client_state),
        setup.rows_of(delivery.client, delivery.time),
    )
    preview = setup.summed(strategy.preview, model, replace(data, task=task))
    strategy.begin_task(model, task, preview)
    if strange := sorted(model.parameters().keys() - state.tensors.keys()):
        raise InputError(
            f"strategy.name: it trains {strange[0]!r} from some task on without saying so (by "
            "`grows`); clients whose tasks do not come in step share what was there at first"
        )
    found = shared_model_of(model, strategy, state.tensors)
    client_state.shared_model, client_state.delivery_time = found, delivery.time
    return found


def _end_task(
    setup: ClientSetup, state: GlobalState, client: int, client_state: ClientState
) -> SharedModel:
    """The client's shared model after the end of the task that it was at."""
    assert client_state.delivery_time is not None
    assert client_state.shared_model is not None
    delivery = setup.delivery(client, client_state.delivery_time)
    tensors = setup.starting_tensors(state, client, client_state, delivery.task)
    model, strategy = setup.loaded_model(client_state.shared_model, tensors, state.ledger)
    task, data = setup.task_of(delivery, client_state), setup.rows_of(client, delivery.time)
    review = setup.summed(strategy.review, model, replace(data, task=task))
    strategy.end_task(model, task, review)
    return shared_model_of(model, strategy, state.tensors)
