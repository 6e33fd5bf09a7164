"""The host: a Ray Train worker that holds frozen backbones and trains the trials that it claims on
them; or several workers, that train each trial together."""

import os
import platform
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray._private.state import state as ray_state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]
from ray.exceptions import ActorDiedError, ObjectLostError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util import placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lamina.core import Samples, Stream
from lamina.garbage import collect_seldom
from lamina.orchestration.backbone_copies import copy_key, take_copy
from lamina.orchestration.hosts.heartbeat import heartbeat
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.client import StoreClient

if TYPE_CHECKING:
    import torch

    from lamina.orchestration.hosts.resident_backbones import ResidentBackbones

MOST_FAILURES = 3
"""How often in a row a host may die without having learned a task in between."""
_WAIT_SECONDS = 10.0
"""A host that has no machine after so long is said to wait for one."""


class _HostTrainer(DataParallelTrainer):
    """Ray Train's trainer without what a host has no use for: the process group of a TorchTrainer
    where a host is one worker (its controller needs no torch then), and two processes, one for
    Ray's own data sets, one that cleans up after controllers that outlive their driver.

    Every start of a host would wait for them. A Ray that calls no such method starts the two as
    usual.
    """

    def __init__(
        self, *arguments: Any, on_controller: Callable[[Any], None], **settings: Any
    ) -> None:
        """`on_controller` is called with the actor that keeps the host running; the rest is Ray
        Train's."""
        super().__init__(*arguments, **settings)
        self._on_controller = on_controller

    def _initialize_and_run_controller(self, **settings: Any) -> Any:
        """As Ray Train does, which tells nobody its actor. Whoever has it can end the wait for a
        machine that does not come. What one that is killed had reserved is free again."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        variables = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        controller: Any = (
            ray.remote(TrainController)
            .options(num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": variables})
            .remote(**settings)
        )
        self._on_controller(controller)
        try:
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())
        except ActorDiedError:
            _free_cores(controller)
            raise

    def _create_default_callbacks(self) -> list[Any]:
        return [
            each
            for each in super()._create_default_callbacks()
            if type(each).__name__ not in ("DatasetsCallback", "PlacementGroupCleanerCallback")
        ]


def run_host(
    settings: HostSpec,
    folder: Path,
    on_controller: Callable[[Any], None],
    is_over: Callable[[], bool],
) -> None:
    """Keep one host running until the store dismisses it. Blocks; meant for a thread of the driver.

    Ray Train's actor starts the worker again when it dies. The actor itself is started again here,
    as it takes the worker with it. A host that gets nowhere is given up: then this raises Ray
    Train's error, or ActorDiedError.

    `on_controller` is called with the actor whenever there is a new one. One that is killed when
    the sweep `is_over` is not started again: this raises ActorDiedError.
    """
    scaling = ScalingConfig(
        num_workers=settings.workers,
        use_gpu=settings.use_gpu,
        resources_per_worker={"CPU": settings.threads, "GPU": int(settings.use_gpu)},
    )
    deaths = 0
    while True:
        before = settings.store.progress(settings.name)
        trainer = _HostTrainer(
            # Bound to its settings: a `train_loop_config` would be read by the controller as well,
            # which would import Lamina and torch for it.
            partial(host_loop, settings),
            scaling_config=scaling,
            backend_config=_process_group() if settings.workers > 1 else None,
            run_config=RunConfig(
                name=settings.name,
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=MOST_FAILURES),
            ),
            on_controller=on_controller,
        )
        try:
            with _missing_is_said(settings):
                trainer.fit()
        except ray.train.TrainingFailedError:
            if settings.store.progress(settings.name) == before:
                raise
        except ActorDiedError:
            if is_over():
                raise
            deaths = deaths + 1 if settings.store.progress(settings.name) == before else 1
            if deaths > MOST_FAILURES:
                raise
        else:
            return


def host_loop(settings: HostSpec) -> None:
    """The loop of a Ray Train worker: claim trials, train them and send the store what they
    learned, until there is nothing left to claim."""
    collect_seldom()
    if ray.train.get_context().get_world_rank() > 0:
        _train(settings)
        return
    with heartbeat(settings.store, settings.name):
        _train(settings)


def _train(settings: HostSpec) -> None:
    # Only here, on the host, are torch and what is built on it needed.
    import torch
    from ray.train.torch import get_device

    torch.set_num_threads(settings.threads)
    device = get_device()
    if settings.workers == 1:
        train_claimed(settings, device)
        return
    from lamina.orchestration.hosts.trials_of_several import TrialsOfSeveral

    together = TrialsOfSeveral(settings, _resident_backbones(settings, device))
    if ray.train.get_context().get_world_rank() == 0:
        where = f"{settings.workers} workers, the first on {device} of {platform.node()}"
        settings.store.arrive(settings.name, where, os.getpid())
    together.train()


def train_claimed(settings: HostSpec, device: "torch.device") -> None:
    """Tell the store that the host is there, and train on `device` what it claims, until there is
    nothing left."""
    from lamina.orchestration.hosts.claimed_trials import ClaimedTrials

    backbones = _resident_backbones(settings, device)
    settings.store.arrive(settings.name, f"{device} of {platform.node()}", os.getpid())
    ClaimedTrials(settings, backbones).train()


def _resident_backbones(settings: HostSpec, device: "torch.device") -> "ResidentBackbones":
    from lamina.orchestration.hosts.resident_backbones import ResidentBackbones

    store = settings.store
    return ResidentBackbones(
        device,
        settings.hosts,
        lambda digest, build: _find_stream(store, digest, build),
        lambda name: take_copy(name, store.stream(copy_key(name))),
    )


def _process_group() -> Any:
    """The process group of the workers of one host: NCCL on GPUs, gloo elsewhere."""
    from ray.train.torch import TorchConfig

    return TorchConfig()


def _free_cores(controller: Any) -> None:
    """Remove the placement groups of a controller that is dead, with the workers in them. Ray keeps
    them until the driver ends; its public table does not say whose they are."""
    own = controller._actor_id.binary()
    for content in ray_state._connect_and_get_accessor().get_placement_group_table():
        found = PlacementGroupTableData.FromString(content)
        if found.creator_actor_id == own and found.state != PlacementGroupTableData.REMOVED:
            number = ray.PlacementGroupID(found.placement_group_id)
            remove_placement_group(PlacementGroup(number))


@contextmanager
def _missing_is_said(settings: HostSpec) -> Iterator[None]:
    """While within, the store is told that the host waits for a machine, if it does."""
    is_over = threading.Event()
    gpu = " and a free GPU" if settings.use_gpu else ""
    each = f" for each of {settings.workers} workers" if settings.workers > 1 else ""
    needs = f"a machine with {settings.threads} free CPU cores{gpu}{each}"

    def look() -> None:
        # After the sweep a call would start a Ray of its own.
        while not is_over.wait(_WAIT_SECONDS) and ray.is_initialized():
            with suppress(RayError):
                if any(group["state"] == "PENDING" for group in placement_group_table().values()):
                    settings.store.miss(settings.name, needs)

    thread = threading.Thread(target=look, name=f"{settings.name} waits", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        # Ray must not be shut down under it.
        thread.join(_WAIT_SECONDS)


def _find_stream(
    store: StoreClient, digest: str, build: Callable[[], Stream[Samples]]
) -> Stream[Samples]:
    """The raw stream from the object store; built here and offered to the other hosts if it is not
    there any more."""
    for reference in store.stream(digest):
        try:
            return ray.get(reference)
        except ObjectLostError:
            break  # Its owner, another host, has died.
    stream = build()
    store.offer_stream(digest, [ray.put(stream)])
    return stream
