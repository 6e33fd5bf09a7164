"""What needs the extra `privacy` says so."""

import sys

import pytest

from lamina.federation.privacy.accounting import Release, noise_for
from lamina.federation.privacy.extra import privacy_module
from lamina.federation.privacy.secure_sum import SumClient
from lamina.registry import InputError


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(InputError, match=r'no_such_package.*pip install "lamina\[privacy\]"'):
        privacy_module("no_such_package.part")


def test_a_secure_sum_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.hashes", None)
    with pytest.raises(InputError, match=r"cryptography.*lamina\[privacy\]"):
        SumClient(1, 3, 2, b"")


def test_accounting_without_its_package_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.pld.privacy_loss_distribution", None)
    with pytest.raises(InputError, match=r"dp_accounting.*lamina\[privacy\]"):
        noise_for(Release(17.3).noise_multiplier, 1e-5, 0.37, 1)
