"""A sweep: the store, the hosts and the Tuner, started together and ended together."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import ray
from ray import tune
from ray.exceptions import ActorDiedError
from ray.tune.schedulers import TrialScheduler

from lamina.config import Job, SweepPlan, SweepSettings, expand, stage_id
from lamina.core import Samples, Stream
from lamina.files import alone_in
from lamina.orchestration.cluster import Device, choose_devices, cluster, own_node_resource
from lamina.orchestration.hosts.host import run_host
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.actor import start_store
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.shared_store import Expected
from lamina.orchestration.sweep.earlier import outdated_trials
from lamina.orchestration.sweep.schedulers import make_scheduler
from lamina.orchestration.sweep.search import param_space
from lamina.orchestration.sweep.searchers import check_searcher, make_searcher, searches
from lamina.orchestration.sweep.store_watch import watched
from lamina.orchestration.sweep.streams import DriverStreams, first_streams
from lamina.orchestration.sweep.task_halving import TaskHalving
from lamina.orchestration.sweep.terminal import announced
from lamina.orchestration.sweep.thin_trial import ThinTrial
from lamina.orchestration.sweep.tune_callback import TuneCallback
from lamina.orchestration.sweep.verify import verify
from lamina.registry import InputError
from lamina.tracking.base import Status
from lamina.tracking.trackers import make_tracker

"""What happened: `event`, `trial`, and what goes with it (see `run_sweep`)."""

_END_SECONDS = 10.0
"""How long the end of a sweep waits for the thread of a host that is killed."""
_TRIAL_SHARE = 0.001
"""The share of the driver's node that a thin trial takes: Ray wants some resource, and hosts take
every core."""


def run_sweep(
    job: Job,
    on_event: Callable[[Mapping[str, Any]], None],
    checked: list[Stream[Samples]] | None = None,
) -> list[dict[str, Any]]:
    """Train every trial of a job's sweep on Ray, and return what is known of each.

    `checked` are the streams of the plan's points as `check_components` returned them; they are
    built here where they are not given. The list is emptied, so that none of them is held twice.

    A row has `trial`, `name`, `settings`, `mapping`, `status` (finished, failed or stopped),
    `error` and `reports`. What an earlier sweep in the same folder finished is not trained again;
    what it left unfinished goes on from its last boundary. Either holds only where the rows and the
    weights that it learned from are the same: otherwise it is trained from the beginning, and its
    earlier results are left out.

    `on_event` is called from one thread at a time, mostly one of its own, with mappings whose
    `event` is: `sweep_started`; `renewed` (`names`, `why`) for trials of earlier sweeps that are
    trained again, as their data or model has changed; `host_ready` (`host`, `where`, `process`),
    `host_lost` (`host`, `error`), `host_missing` (`host`, `needs`: no machine has that now),
    `store_silent` (`seconds`: it did not answer for so long, and is started again); for a `trial`:
    `submitted` (`name`), `known` (finished before: `name`, `reports`), `started` (`host`),
    `reported` (`report`), `set_back` (`damage`, `task`: a checkpoint is damaged, and it goes on
    after this task, or with -1 at its beginning), `paused`, `finished`, `stopped`, `failed`
    (`error`); `asked` (`action`, `subject`: the trial) when a person does from another terminal;
    then `sweep_finished` (`status`), `tracking_behind` (`number`) if the tracker has still so much
    to write, and `tracking_incomplete` (`error`) if it could not write everything; last `verified`
    (`same_matrices`, `difference`, `holds`) for each trial that was trained again alone.

    Raises InputError, before Ray is started where possible, for what is wrong with the job.
    """
    _check_output_dir(job.output_dir)
    plan = expand(job)
    settings = job.sweep or SweepSettings()
    built = first_streams(plan, checked)
    scheduler = make_scheduler(plan, max(map(len, built.values())))
    check_searcher(plan)
    with (
        alone_in(job.output_dir),
        # Ray may still be writing there when it is told to stop.
        TemporaryDirectory(prefix="lamina-ray-", ignore_cleanup_errors=True) as scratch,
        cluster(),
    ):
        devices = choose_devices(job.hosts)
        streams = DriverStreams(built)
        plan = streams.plan(plan)
        rows = _Sweep(plan, devices, scheduler, streams, Path(scratch), on_event).run()
        if settings.verify:
            for verdict in verify(
                rows, settings.verify, job.seed, job.output_dir, job.hosts, devices
            ):
                on_event({"event": "verified", **asdict(verdict), "holds": verdict.holds})
        return rows


def _check_output_dir(output_dir: Path) -> None:
    """A submitted job works in a folder that Ray makes for it and deletes."""
    if "working_dir_files" in Path.cwd().parts and not output_dir.is_absolute():
        raise InputError(
            f"output_dir: {str(output_dir)!r} would be deleted with the working directory of this "
            "submitted job (allowed: an absolute path)"
        )


class _Sweep:
    """One sweep on a running Ray."""

    def __init__(
        self,
        plan: SweepPlan,
        devices: list[Device],
        scheduler: TrialScheduler | None,
        streams: DriverStreams,
        scratch: Path,
        on_event: Callable[[Mapping[str, Any]], None],
    ) -> None:
        self._plan = plan
        self._settings = plan.job.sweep or SweepSettings()
        self._devices = devices
        self._scheduler = scheduler
        self._streams = streams
        self._scratch = scratch
        self._listener = on_event
        self._telling = threading.Lock()
        self._session = uuid4().hex
        self._outdated: set[str] = set()
        """Ids of earlier trials that learned from other data, or from another model."""
        self._callback: TuneCallback | None = None
        self._over = threading.Event()

    def run(self) -> list[dict[str, Any]]:
        """Train, and leave nothing behind but the output folder."""
        job = self._plan.job
        tracking = job.tracking
        store = start_store(
            job.output_dir,
            session=self._session,
            scheduled=self._scheduler is not None,
            make_tracker=partial(
                make_tracker,
                job.output_dir.resolve(),
                tracking.enabled,
                tracking.mlflow_uri,
                tracking.experiment or job.name,
                job.name,
                register=job.name if tracking.register else None,
                system_metrics=tracking.system_metrics,
                measure=job.measure,
            ),
        )
        with announced(job.output_dir, self._session), watched(store, self._say_silence):
            return self._run_with(store)

    def _run_with(self, store: StoreClient) -> list[dict[str, Any]]:
        job = self._plan.job
        status: Status = "failed"
        hosts: _Hosts | None = None
        try:
            earlier = store.results()
            first = store.start_sweep(job.name, job.mapping, self._streams.documents())
            feed = _start_thread("feed", partial(self._feed, store, first))
            self._find_outdated(earlier)
            self._expect(store)
            used = self._used(store)
            specs = [
                HostSpec(
                    f"host-{number}",
                    store,
                    device.is_gpu,
                    job.hosts,
                    len(used),
                    self._settings.checkpoint_steps,
                )
                for number, device in enumerate(used)
            ]
            hosts = _Hosts(store, specs, self._scratch / "hosts", self._over)
            self._streams.offer_to(
                lambda digest, reference: store.offer_stream(digest, [reference])
            )
            callback = self._tune(store)
            left = store.dismiss()
            status = "failed" if hosts.all_lost else "finished"
        except KeyboardInterrupt:
            status = "stopped"
            raise
        finally:
            self._over.set()
            try:
                missing = store.close(status, self._say_what_is_written)
                results = store.results()
                if hosts is not None and status == "finished":
                    hosts.join(left)
            finally:
                store.kill()
                if hosts is not None:
                    hosts.end()
        feed.join()
        if missing:
            self._on_event({"event": "tracking_incomplete", "trial": None, "error": missing})
        return callback.rows(results)

    def _say_silence(self, seconds: float) -> None:
        self._on_event({"event": "store_silent", "trial": None, "seconds": seconds})

    def _say_what_is_written(self, number: int) -> None:
        self._on_event({"event": "tracking_behind", "trial": None, "number": number})

    def _on_event(self, event: Mapping[str, Any]) -> None:
        with self._telling:
            self._listener(event)

    def _find_outdated(self, earlier: Sequence[Mapping[str, Any]]) -> None:
        """Leave the trials out of account that learned from something else, and say so."""
        names: dict[str, list[str]] = {}
        for each in outdated_trials(self._plan, earlier):
            names.setdefault(each.why, []).append(each.name)
            self._outdated |= set(each.trials)
        for why, those in names.items():
            self._on_event({"event": "renewed", "trial": None, "names": those, "why": why})

    def _expect(self, store: StoreClient) -> None:
        """Queue what Ray Tune is sure to ask for, so that hosts can train several trials at a time
        although only few thin trials are awake. Under a scheduler that is what each may learn
        before it is judged."""
        settings = self._settings
        if searches(settings) or settings.max_concurrent is not None:
            return
        num_tasks = (settings.scheduler or {}).get("grace_period")
        if self._scheduler is not None and num_tasks is None:
            return
        trials = [point.trial for point in self._plan.points if not point.domains]
        expected = [Expected(each.name, each.job.mapping, stage_id(each.job)) for each in trials]
        store.expect(expected, num_tasks)

    def _used(self, store: StoreClient) -> list[Device]:
        """The devices that have something to do: no more than there are trials left to train."""
        points = self._plan.points
        if any(point.domains for point in points):
            return self._devices[: self._plan.num_trials]
        left = store.count_unfinished([point.trial.job.mapping for point in points])
        return self._devices[:left]

    def _tune(self, store: StoreClient) -> TuneCallback:
        """Run the Tuner to its end."""
        settings = self._settings
        # A thin trial is a process, and hosts need none where Ray Tune decides nothing.
        awake = 1 if self._is_foreseen() else len(self._devices) + 1
        concurrent = settings.max_concurrent or awake
        searcher = make_searcher(self._plan, concurrent)
        if isinstance(self._scheduler, TaskHalving):
            is_strict = settings.max_concurrent is not None
            self._scheduler.attach(
                store,
                self._num_tune_trials(),
                concurrent,
                is_strict=is_strict,
                outdated=self._outdated,
            )
        callback = self._callback = TuneCallback(
            store, self._session, self._plan, self._streams.identified, searcher, concurrent
        )
        thin = tune.with_parameters(
            ThinTrial, store=store, session=self._session, metric=settings.metric
        )
        trainable = tune.with_resources(thin, {own_node_resource(): _TRIAL_SHARE})
        tuner = tune.Tuner(
            trainable,
            param_space=param_space(self._plan, searching=searches(settings)),
            tune_config=tune.TuneConfig(
                metric=settings.metric,
                mode=settings.mode,
                search_alg=searcher,
                scheduler=self._scheduler,
                num_samples=settings.num_samples,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._scratch),
                callbacks=[callback],
                # Of a thin trial that has reported nothing; then the callback says how often.
                failure_config=tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        )
        tuner.fit()
        return callback

    def _is_foreseen(self) -> bool:
        """Whether every trial is known from the start, and all are trained to their end."""
        settings = self._settings
        is_drawn = any(point.domains for point in self._plan.points)
        return self._scheduler is None and not searches(settings) and not is_drawn

    def _num_tune_trials(self) -> int:
        """How many trials Ray Tune will make: it draws even where nothing that is drawn matters."""
        settings, points = self._settings, len(self._plan.points)
        return settings.num_samples * (1 if searches(settings) else points)

    def _feed(self, store: StoreClient, after: int) -> None:
        """Hand events on until the last one."""
        while True:
            try:
                news = store.events(after)
            except (OSError, ActorDiedError):
                return  # The store is let down by its disk, or given up: the driver is told, too.
            except Exception:
                if self._over.is_set():
                    return
                raise
            for after, event in news:  # noqa: B007
                if event["event"] == "asked" and self._callback is not None:
                    self._callback.hear()
                self._on_event(event)
                if event["event"] == "sweep_finished":
                    return


class _Hosts:
    """The hosts of a sweep, each kept running by a thread."""

    def __init__(
        self, store: StoreClient, specs: list[HostSpec], folder: Path, over: threading.Event
    ) -> None:
        self.all_lost = False
        """Whether there were hosts and every one is given up."""
        self._num_left = len(specs)
        self._store = store
        self._over = over
        self._lock = threading.Lock()
        self._controllers: dict[str, Any] = {}
        """Ray Train's actor of each host."""
        self._threads = [
            _start_thread(spec.name, partial(self._keep, spec, folder)) for spec in specs
        ]

    def join(self, names: Sequence[str]) -> None:
        """Return when the processes of these hosts have ended."""
        for thread in self._threads:
            if thread.name in names:
                thread.join()

    def end(self) -> None:
        """End the hosts that are left: they are silent, wait for a machine, or the sweep was
        interrupted. A thread that still waits for Ray when Ray is shut down may crash this
        process."""
        alive = [thread for thread in self._threads if thread.is_alive()]
        controllers = [
            self._controllers[thread.name] for thread in alive if thread.name in self._controllers
        ]
        for controller in controllers:
            ray.kill(controller)
        for thread in alive:
            thread.join(_END_SECONDS)

    def _keep(self, spec: HostSpec, folder: Path) -> None:
        try:
            on_controller = partial(self._controllers.__setitem__, spec.name)
            run_host(spec, folder, on_controller, self._over.is_set)
        except Exception as error:
            if self._over.is_set():
                return  # The sweep was interrupted and Ray is going away.
            reason = str(error).strip().splitlines()[-1]
            with self._lock:
                self._num_left -= 1
                self.all_lost = self._num_left == 0
                with suppress(OSError):
                    self._store.lose(spec.name, reason, last=self.all_lost)


def _start_thread(name: str, target: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
