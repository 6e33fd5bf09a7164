"""A federation ends in a bundle of its global model, which answers as its last evaluation did."""

import pytest
import torch

from bundle_cases import mapping_of, raw_stream, write_data
from lamina.bundles import Predictor, open_bundle
from lamina.bundles.federated import why_no_bundle, write_global_bundle
from lamina.bundles.learning import continuation
from lamina.config import parse_job
from lamina.config.clients import manifest_of, settings_of_run
from lamina.core import PARTS
from lamina.federation.client.client import ClientWork
from lamina.federation.client.client_state import ClientState
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.shared_model import LEDGER
from lamina.federation.work import Download, Item
from lamina.orchestration.federated.learner import Kept
from lamina.orchestration.federated.pool import LocalPool
from lamina.orchestration.federated.run import advance
from lamina.orchestration.federated.worker import LearningWorker
from lamina.registry import InputError
from lamina.training.evaluate import known_task, logits_by_length


@pytest.fixture
def federation(tiny_bert, tiny_bert_folder, tmp_path):
    """A federation of two clients to its end: its job, its run, and its worker."""

    def finished(strategy: str, **federation):
        data = write_data(tmp_path / "data", range(2))
        sections = {"federation": {"clients": 2, "rounds": 1, **federation}}
        job = parse_job(mapping_of(strategy, data, tiny_bert_folder, **sections))
        stream = tiny_bert.encode_stream(raw_stream(job))
        manifest = manifest_of(job, stream)
        run = FederatedRun(settings_of_run(job, stream, manifest))
        worker = LearningWorker(job, tiny_bert, stream, manifest)
        list(advance(run, LocalPool(worker), Kept()))
        return job, run, worker

    return finished


@pytest.mark.parametrize(
    ("strategy", "aggregator"),
    [("er", "fedit"), ("olora", "fedit"), ("finetune", "flora"), ("simplecil", "fedit")],
)
def test_the_global_model_answers_as_in_its_last_evaluation(
    strategy, aggregator, federation, tiny_bert, tmp_path
):
    job, run, worker = federation(strategy, aggregator={"name": aggregator})
    setup, server, folder = worker.setup, run.server, tmp_path / "bundle"
    write_global_bundle(job, setup.stream, tiny_bert, run, folder, name="all", trial="all-0")
    bundle = open_bundle(folder)
    bundle.check_files()
    predictor = Predictor(bundle, tiny_bert)
    # FLoRA folds what was trained into the backbone: here it is laid over it.
    assert (LEDGER in predictor.model.adapters) == (aggregator == "flora")
    tensors = setup.starting_tensors(server.global_state, None, ClientState(), 0)
    model, own = setup.loaded_model(server.shared_model, tensors, server.global_state.ledger)
    for each in setup.stream.experiences:
        known = known_task(setup.stream, each.task)
        expected = torch.cat([x for _, x in logits_by_length(own, model, each.test, known, 256)])
        order = each.test.lengths().argsort(stable=True)
        found = predictor.logits(each.test, known).logits
        assert torch.equal(found[order], expected)
    download = Download(server.global_state, server.global_state.digest(), server.shared_model)
    flags = ClientWork.of(setup).evaluation.served(download, Item(None, 1, 2, 2.0), ClientState())
    last = bundle.facts.test[-1]
    assert last[1] == pytest.approx(float(flags["test"].float().mean()))
    assert len(bundle.facts.tasks) == 2
    assert set(bundle.facts.tasks[0].rows) == set(PARTS)


def test_it_cannot_learn_on_without_the_clients(federation, tiny_bert, tmp_path):
    job, run, worker = federation("er")
    stream, folder = worker.setup.stream, tmp_path / "bundle"
    write_global_bundle(job, stream, tiny_bert, run, folder, name="all", trial="all-0")
    with pytest.raises(InputError, match="what it takes to learn on is with the clients"):
        continuation(open_bundle(folder), ["stream.path=next.csv"])


def test_clients_with_models_of_their_own_have_no_bundle(tiny_bert_folder, tmp_path):
    data = write_data(tmp_path / "data", range(2))
    federation = {"clients": 2, "rounds": 1, "aggregator": {"name": "fedsa_lora"}}
    job = parse_job(mapping_of("finetune", data, tiny_bert_folder, federation=federation))
    assert why_no_bundle(job) == "aggregator 'fedsa_lora' leaves each client a model of its own"
