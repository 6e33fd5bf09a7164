"""A trial that cannot begin, and whose fault that is: its own, or its host's."""

import pytest
from ray.exceptions import ActorDiedError

from lamina.config import HostSettings
from lamina.orchestration.hosts.claimed_trials import ClaimedTrials
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.records import Claim

CLAIM = Claim("a", "a", {})


class Store:
    """Has a trial whose checkpoint cannot be had, or that is not to be trained."""

    def __init__(self, error):
        self.error = error
        self.failed = []

    def checkpoint(self, trial, host):
        if self.error is not None:
            raise self.error

    def fail(self, trial, error):
        self.failed.append((trial, error))


class Backbones:
    """Builds a learner that is never used."""

    def learner(self, mapping):
        return None


def begin(error):
    store = Store(error)
    settings = HostSpec("host-0", store, False, HostSettings(), 1)
    ClaimedTrials(settings, Backbones())._begin(CLAIM)
    return store.failed


def test_a_trial_that_is_not_to_be_trained_any_more_is_let_go():
    assert begin(None) == []


def test_a_store_that_is_gone_is_not_the_fault_of_the_trial():
    with pytest.raises(ActorDiedError):
        begin(ActorDiedError())


def test_what_goes_wrong_in_the_trial_itself_fails_it_with_its_traceback():
    ((trial, error),) = begin(ZeroDivisionError("in its own code"))
    assert trial == "a"
    assert error.startswith("Traceback")
    assert error.endswith("ZeroDivisionError: in its own code\n")
