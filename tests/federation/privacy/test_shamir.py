"""Many shares at a time are those of pycryptodome."""

import secrets
from itertools import combinations

import pytest

from lamina.federation.privacy.shamir import SECRET, secrets_of, shares_of


def drawn(number):
    return [secrets.token_bytes(SECRET) for _ in range(number)]


@pytest.mark.parametrize(("least", "number"), [(2, 2), (3, 5), (5, 9), (44, 65)])
def test_shares_are_those_that_a_well_kept_library_makes_and_reads(least, number):
    shamir = pytest.importorskip("Crypto.Protocol.SecretSharing").Shamir
    secret, coefficients = drawn(1)[0], drawn(least - 1)
    ours = dict(enumerate(shares_of(secret, coefficients, number), start=1))
    assert shamir.combine(list(ours.items())[-least:]) == secret
    theirs = dict(shamir.split(least, number, secret))
    assert secrets_of({n: [theirs[n]] for n in list(theirs)[:least]}) == [secret]


def test_any_so_many_holders_tell_all_secrets_and_fewer_tell_other_ones():
    wanted = drawn(3)
    shares = [shares_of(secret, drawn(2), 6) for secret in wanted]
    for holders in combinations(range(1, 7), 3):
        held = {holder: [each[holder - 1] for each in shares] for holder in holders}
        assert secrets_of(held) == wanted
        two = dict(list(held.items())[:2])
        assert all(one != other for one, other in zip(secrets_of(two), wanted, strict=True))


@pytest.mark.parametrize("edge", [bytes(SECRET), bytes([255] * SECRET), bytes([128, *[0] * 15])])
def test_secrets_and_coefficients_at_the_edges_of_the_field_are_told(edge):
    shares = shares_of(edge, [edge, edge], 7)
    assert secrets_of({n: [shares[n - 1]] for n in (2, 5, 7)}) == [edge]


def test_no_secrets_are_told_as_none():
    assert secrets_of({1: [], 2: []}) == []
