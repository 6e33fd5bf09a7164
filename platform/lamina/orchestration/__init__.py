"""Sweeps on Ray: the store, the hosts, the thin trials. The only folder that imports ray."""

import os

# Ray reads this when it is imported. Of a store or a host that is started again the sweep says what
# there is to say; Ray would add these lines, whatever its logging level.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "There are infinite retries remaining|A worker died or was killed while executing a task",
)
