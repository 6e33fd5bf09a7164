"""What is refused when a job is read, and what is not."""

import pytest

from lamina.federation.aggregators import aggregator_class, aggregator_names
from lamina.federation.combinations import Combination, impossible
from lamina.federation.optimisers import server_optimiser_class


def job(name, settings=None, **others):
    return Combination(aggregator_class(name)(**(settings or {})), **others)


ADAM = server_optimiser_class("fedadam")()
EQUAL = {"weighting": "equal"}


@pytest.mark.parametrize(
    ("combined", "why"),
    [
        (job("krum", secure=True), "secure aggregation"),
        (job("flora", secure=True), "secure aggregation"),
        (job("median", secure=True), "secure aggregation"),
        (job("flexlora", secure=True), "secure aggregation"),
        (job("fedit", client_privacy=True), "weighting 'equal'"),
        (job("krum", client_privacy=True), "clips updates"),
        (job("lorm", EQUAL, client_privacy=True), "Gram"),
        (job("rolora", mode="buffered"), "another phase"),
        (job("lorm", mode="buffered"), "another phase"),
        (job("flexlora", mode="buffered"), "no more"),
        (job("median", mode="buffered"), "different states"),
        (job("fedit", drift="scaffold"), "plain SGD"),
        (job("flora", drift="scaffold", local_optimiser="sgd"), "old ones"),
        (
            job("fedit", EQUAL, drift="scaffold", local_optimiser="sgd", client_privacy=True),
            "beside",
        ),
        (job("fedit", drift="scaffold", local_optimiser="sgd", mode="buffered"), "one round"),
        (job("flexlora", server_optimiser=ADAM), "belongs to the old ones"),
        (job("krum", server_optimiser=ADAM), "belongs to the old ones"),
        (job("fedex_lora", server_optimiser=ADAM), "residual"),
        (job("fedit", ranks=(4, 8)), "4, 8"),
        (job("fedex_lora", ranks=(4, 8)), "flexlora"),
        (job("ffa_lora", adapter="prefix"), "prefix"),
        (job("krum", {"byzantine": 2}, clients_per_round=6), "= 7 clients"),
    ],
)
def test_what_cannot_be_is_said_with_its_reason(combined, why):
    reasons = impossible(combined)
    assert any(why in reason for reason in reasons)
    assert all(len(reason) > 40 for reason in reasons)


@pytest.mark.parametrize(
    "combined",
    [
        *[job(name) for name in aggregator_names()],
        job("fedit", secure=True),
        job("fedit", EQUAL, secure=True, client_privacy=True),
        job("ffa_lora", EQUAL, client_privacy=True, server_optimiser=ADAM),
        job("fedsa_lora", secure=True, mode="deadline"),
        job("rolora", server_optimiser=ADAM),
        job("fedit", mode="buffered", adapter="prefix"),
        job("prompt_pool", mode="buffered", adapter="prompt"),
        job("flexlora", ranks=(2, 4, 8)),
        job("flora", ranks=(2, 4, 8)),
        job("fedit", drift="scaffold", local_optimiser="sgd"),
        job("fedit", drift="fedprox"),
        job("prototypes", secure=True, adapter=None),
        job("krum", {"byzantine": 2}, clients_per_round=7),
    ],
)
def test_what_can_be_is_not_refused(combined):
    assert impossible(combined) == []


def test_all_reasons_are_given_at_once():
    everything = job(
        "krum", secure=True, client_privacy=True, server_optimiser=ADAM, drift="scaffold"
    )
    assert len(impossible(everything)) >= 5


@pytest.mark.parametrize("name", aggregator_names())
def test_what_an_aggregator_says_of_itself_holds_together(name):
    cls = aggregator_class(name)
    assert not (cls.linear and cls.changes_rank)
    assert not (cls.robust and cls.linear)
    assert set(cls.phases) <= {"a", "b", "both"}
    assert cls.uses_ledger <= cls.changes_rank
