"""A peer of `federated_vs_flower.py`: federated averaging in Flower's simulation on Ray.

    python tests/benchmarks/peers/flower_rounds.py FOLDER

FOLDER has the `Plan` of the run; what was found is written there. It knows nothing of Lamina.

What a competent user does is done:

- `ClientApp` and `ServerApp` with messages and records, and the `FedAvg` that comes with them.
- A client takes one core, so that each core has an actor; the default is one client on two cores.
- Only training rounds: no evaluation on the clients, which `FedAvg` would do in each round.
- Flower logs warnings only; Ray's dashboard and the workers' output are off, and so is telemetry.
- The apps are in a module that the actors import, so that with a message travels its name only.

And what is usual stays: nothing is kept of a round, as Flower's simulation cannot go on from it.
`run_simulation` runs in this process the engine that `flwr run` would start in another.
"""

import importlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

from client_work import Arrays, Found, Plan, initial, mean_of, work_of

CORES = 2

client_app = ClientApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """A client's round."""
    content = message.content
    arrays = arrays_of(content["arrays"])
    found = work_of(content["config"]["work"], context.node_config["partition-id"], arrays)
    metrics = MetricRecord({"loss": found.loss, "num-examples": found.num_rows})
    reply = RecordDict({"arrays": record_of(found.arrays), "metrics": metrics})
    return Message(reply, reply_to=message)


class Timed(FedAvg):
    """Federated averaging that takes down when each round was over, and what came."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(
            fraction_train=plan.sampled / plan.registered,
            fraction_evaluate=0.0,
            min_train_nodes=plan.sampled,
            min_available_nodes=plan.registered,
        )
        self.ends: list[float] = []
        self.updates: list[int] = []
        self.losses: list[float] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.ends.append(perf_counter())
        self.updates.append(sum(not reply.has_error() for reply in replies))
        self.losses.append(metrics["loss"])
        return arrays, metrics


def arrays_of(record: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}


def record_of(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def main(folder: Path) -> None:
    """Run the plan."""
    plan = Plan.read(folder)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    server_app = ServerApp()

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = Timed(plan)
        result = strategy.start(
            grid=grid,
            initial_arrays=record_of(initial(plan.work)),
            num_rounds=plan.all_rounds,
            train_config=ConfigRecord({"work": plan.work}),
        )
        last = mean_of(arrays_of(result.arrays))
        Found(strategy.ends, strategy.updates, strategy.losses, last).write(folder)

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=plan.registered,
        backend_config={
            "init_args": {"num_cpus": CORES, "include_dashboard": False},
            "client_resources": {"num_cpus": 1, "num_gpus": 0},
        },
    )


if __name__ == "__main__":
    # What `__main__` defines would travel with each message as code.
    importlib.import_module("flower_rounds").main(Path(sys.argv[1]).resolve())
