"""What a sweep must not lose: its queue of trials, their reports, checkpoints, replay memories and
adapters.

No Ray here: `actor.py` puts one `SharedStore` behind an actor. Everything is on disk before a call
returns. Facts are in one SQLite file, because a report, the checkpoint that belongs to it and the
trial's new state must appear together or not at all (with loose files that would need a journal of
our own). Bytes are safetensors files beside it, because a database is a poor place for megabytes.
Every call is idempotent: it may be delivered twice, and counts once.
"""

import json
from pathlib import Path

from lamina.orchestration.payloads import Payloads
from lamina.orchestration.store.checkpoints import Checkpoints
from lamina.orchestration.store.first_stages import FirstStages
from lamina.orchestration.store.ledger import Ledger
from lamina.orchestration.store.queries import Queries
from lamina.orchestration.store.records import Boundary, Claim, Configuration, Expected, Report
from lamina.orchestration.store.starting_points import StartingPoints
from lamina.orchestration.store.sweep_record import begin_session
from lamina.orchestration.store.transitions import State
from lamina.orchestration.store.trial_queue import MOST_DEATHS, TrialQueue

__all__ = ["MOST_DEATHS", "Boundary", "Claim", "Expected", "Report", "SharedStore", "State"]

_LOCK_SECONDS = 20.0
"""How long a store waits for the one before it (of a driver that was just killed, say) to let go of
the file."""


class SharedStore:
    """The state of one sweep under `<output_dir>/store/`, in parts that share a ledger: the queue
    (`TrialQueue`), which changes the states of trials; the checkpoints (`Checkpoints`), and from
    which a trial goes on (`StartingPoints`); what is known (`Queries`). Their methods are the
    store's.

    A new `session` (a new driver) finds finished trials finished and the others stopped.
    """

    def __init__(
        self,
        folder: Path,
        session: str | None,
        keep_boundaries: bool = False,
        output_dir: Path | None = None,
    ) -> None:
        """Open the store in `folder`, or begin one.

        Args:
            folder: Where it is.
            session: The driver's; None opens the store as the last session left it.
            keep_boundaries: Keep every checkpoint, not only the last, so that trials can be forked
                anywhere.
            output_dir: How errors call the sweep; None: the folder above.

        Raises InputError when another sweep has the folder open, or when its ledger is damaged or
        of another version.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shown = output_dir or folder.parent
        self.ledger = Ledger(folder / "ledger.sqlite", shown, _LOCK_SECONDS)
        self._payloads = Payloads(folder / "payloads")
        checkpoints = Checkpoints(self.ledger, self._payloads, keeps_all=keep_boundaries)
        queries = Queries(self.ledger)
        stages = FirstStages(self.ledger)
        queue = TrialQueue(
            self.ledger, queries, checkpoints, stages, pauses_followers=keep_boundaries
        )

        self.submit = queue.submit
        self.pause_again = queue.pause_again
        self.resume = queue.resume
        self.claim = queue.claim
        self.release = queue.release
        self.report = queue.report
        self.record = queue.record
        self.record_midway = queue.record_midway
        self.pause = queue.pause
        self.stop = queue.stop
        self.finish = queue.finish
        self.fail = queue.fail
        self.fail_all = queue.fail_all
        self.stop_all = queue.stop_all

        starting_points = StartingPoints(self.ledger, queries, checkpoints, stages)
        self.start = starting_points.start
        self.set_back = starting_points.set_back

        self.write = checkpoints.write
        self.at = checkpoints.at
        self.read = checkpoints.read
        self.midway = checkpoints.midway
        self.tidy = checkpoints.tidy

        self.trials = queries.trials
        self.state = queries.state
        self.error = queries.error
        self.name = queries.name
        self.mapping = queries.mapping
        self.host = queries.host
        self.is_running = queries.is_running
        self.hold = queries.hold
        self.held = queries.held
        self.ahead = queries.ahead
        self.settings = queries.settings
        self.wanted = queries.wanted
        self.fork_of = queries.fork_of
        self.last_boundary = queries.last_boundary
        self.reports = queries.reports
        self.report_of = queries.report_of
        self.last_report = queries.last_report
        self.owed = queries.owed
        self.events = queries.events
        self.num_ended_on = queries.num_ended_on
        self.configuration = queries.configuration
        self.note = queries.note

        if session is not None:
            with self.ledger.transaction():
                if begin_session(self.ledger, session):
                    queue.restart()

    def mark(self, trial: str, **columns: str | int | None) -> None:
        """Set what somebody wants of `trial`: its `hold`, its `settings` or how far it is trained
        `ahead` (see the ledger). That changes no state."""
        assert columns.keys() <= {"hold", "settings", "ahead"}
        with self.ledger.transaction():
            for column, value in columns.items():
                self.ledger.change(f"UPDATE trials SET {column} = ? WHERE trial = ?", value, trial)

    def describe(self, config: str, job: Configuration) -> None:
        """Remember what a configuration of Ray Tune stands for, for this session."""
        with self.ledger.transaction():
            self.ledger.change(
                "INSERT OR REPLACE INTO configurations VALUES (?, ?, ?, ?, ?)",
                config,
                job.name,
                json.dumps(job.mapping) if job.mapping is not None else None,
                job.stage,
                job.error,
            )

    def set_note(self, key: str, value: str) -> None:
        """Keep what the scheduler wants to find again under `key`, in every session."""
        with self.ledger.transaction():
            self.ledger.change("INSERT OR REPLACE INTO notes VALUES (?, ?)", key, value)

    def close(self) -> None:
        """Let go of the file."""
        self.ledger.close()
