"""A sum of vectors of which the server sees nothing but the sum (Bonawitz et al., 2017, Practical
Secure Aggregation for Privacy-Preserving Machine Learning), with clients that may fall silent.

Client i hides its vector behind a mask of its own seed b_i and, with every other client j, one
that i adds and j takes off again. Both b_i and the private key behind the pairs' masks are shared
out, so that what does not cancel can be removed afterwards: b_i of those whose vector came, the key
of those whose vector did not. Both of one client would uncover it, so clients never help with both.

Four stages, each a message up and an answer down:
`advertise` -> `roster`, `share` -> `inboxes`, `masked` -> `request`, `unmask` -> `total`.

It holds against a server that follows the protocol but looks at all it sees, even together with
fewer than `least` clients. A server that lies to some clients about who survived gets no further: a
client answers once, and `least` is more than half of all n (with 2 least - n clients on its side it
would). Not covered: a server that invents clients (their keys would need certificates), and clients
that send wrong words or shares, which spoil the sum but see nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from lamina.federation.privacy.primitives import (
    agreed,
    derived,
    keystream,
    new_secret,
    opened,
    private_key,
    public_bytes,
    sealed,
    split,
)
from lamina.federation.privacy.quantise import Words
from lamina.federation.privacy.shamir import SECRET, secrets_of

_INDEX = 4
"""Bytes that a client's number takes."""


class SumAbortedError(Exception):
    """Too few clients stayed for a secure sum: the round has no result, and nothing leaked."""


class RefusedError(Exception):
    """A client was asked for what would uncover somebody, and does not answer."""


@dataclass(frozen=True)
class Advertised:
    """Stage 1, up: two fresh public keys."""

    sender: int
    """The client's number, 1 .. n."""
    mask_key: bytes
    """The key pair whose private part makes the masks of pairs, and is secret-shared."""
    seal_key: bytes
    """The key pair whose private part opens sealed shares, and never leaves the client."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        return _INDEX + len(self.mask_key) + len(self.seal_key)


@dataclass(frozen=True)
class Shared:
    """Stage 2, up: for each other client, its shares of the sender's two secrets, sealed."""

    sender: int
    """The client's number."""
    sealed: Mapping[int, bytes]
    """By the receiver's number."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        return _INDEX + sum(_INDEX + len(each) for each in self.sealed.values())


@dataclass(frozen=True)
class Masked:
    """Stage 3, up: the vector behind its masks, as little-endian words."""

    sender: int
    """The client's number."""
    words: bytes
    """Four bytes each."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        return _INDEX + len(self.words)


@dataclass(frozen=True)
class Request:
    """Stage 4, down: whose vectors came, and whose did not after they had shared their secrets."""

    survivors: tuple[int, ...]
    """Of these, shares of the seeds are needed."""
    dropped: tuple[int, ...]
    """Of these, shares of the keys."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        return _INDEX * (len(self.survivors) + len(self.dropped))


@dataclass(frozen=True)
class Unmasked:
    """Stage 4, up: the sender's shares of the survivors' seeds and of the dropped clients' keys."""

    sender: int
    """The client's number."""
    seeds: Mapping[int, bytes]
    """16 bytes by the survivor's number."""
    keys: Mapping[int, bytes]
    """16 bytes by the dropped client's number."""

    @property
    def num_bytes(self) -> int:
        """What it weighs."""
        shares = [*self.seeds.values(), *self.keys.values()]
        return _INDEX + sum(_INDEX + len(share) for share in shares)


class SumClient:
    """One client of one secure sum. Its methods are called once each, in order."""

    def __init__(self, number: int, num_clients: int, least: int, session: bytes) -> None:
        """Client `number` of 1 .. `num_clients`; `session` names the sum (run and round), so that
        nothing of another one fits."""
        assert 1 <= number <= num_clients
        assert num_clients // 2 < least <= num_clients
        self.number = number
        self._num_clients = num_clients
        self._least = least
        self._session = session
        self._seed, self._mask_secret = new_secret(), new_secret()
        self._mask_key = private_key(self._mask_secret, session)
        self._seal_key = private_key(new_secret(), session)
        self._pair_keys: dict[int, bytes] = {}
        self._roster: dict[int, Advertised] = {}
        self._shares: dict[int, bytes] = {}
        self._answered = False

    def advertise(self) -> Advertised:
        """Stage 1."""
        return Advertised(self.number, public_bytes(self._mask_key), public_bytes(self._seal_key))

    def share(self, roster: Sequence[Advertised]) -> Shared:
        """Stage 2. Raises RefusedError for a roster that is too short, has a client twice, or does
        not have this one as it is."""
        numbers = {each.sender for each in roster}
        keys = {key for each in roster for key in (each.mask_key, each.seal_key)}
        if len(numbers) < self._least or len(numbers) != len(roster):
            raise RefusedError(f"a roster of {len(numbers)} clients, {self._least} are needed")
        if len(keys) != 2 * len(roster) or not numbers <= set(range(1, self._num_clients + 1)):
            raise RefusedError("a roster with a key twice, or with unknown clients")
        if self._roster or self.advertise() not in roster:
            raise RefusedError("a second roster, or one without this client")
        self._roster = {each.sender: each for each in roster}
        self._pair_keys = {
            each.sender: self._agreed(self._seal_key, each.seal_key, b"seal")
            for each in roster
            if each.sender != self.number
        }
        seeds = split(self._seed, self._least, self._num_clients)
        secrets = split(self._mask_secret, self._least, self._num_clients)
        self._shares[self.number] = seeds[self.number] + secrets[self.number]
        return Shared(
            self.number,
            {
                other: sealed(key, seeds[other] + secrets[other], _context(self.number, other))
                for other, key in self._pair_keys.items()
            },
        )

    def masked(self, words: Words, inbox: Mapping[int, bytes]) -> Masked:
        """Stage 3: the vector [d], behind the masks with all those whose shares are in the inbox.

        Raises RefusedError for shares that are too few, not for this client, or not from the
        roster.
        """
        if len(self._shares) != 1 or len({*inbox, self.number}) < self._least:
            raise RefusedError(f"shares of {len(inbox)} others, {self._least - 1} are needed")
        if not inbox.keys() <= self._roster.keys() - {self.number}:
            raise RefusedError("shares of clients that are not in the roster")
        total = words + keystream(_self_key(self._seed, self._session), len(words))
        for other, data in sorted(inbox.items()):
            try:
                share = opened(self._pair_keys[other], data, _context(other, self.number))
            except ValueError as error:
                raise RefusedError(f"the shares of client {other}: {error}") from error
            if len(share) != 2 * SECRET:
                raise RefusedError(f"the shares of client {other} have {len(share)} bytes")
            self._shares[other] = share
            key = self._agreed(self._mask_key, self._roster[other].mask_key, b"mask")
            mask = keystream(key, len(words))
            total = total + mask if self.number < other else total - mask
        return Masked(self.number, total.astype("<u4").tobytes())

    def unmask(self, request: Request) -> Unmasked:
        """Stage 4: shares of the survivors' seeds and of the dropped clients' keys.

        Raises RefusedError for a second request, for one that asks for both secrets of a client,
        that has too few survivors, or that does not speak of exactly those whose shares came.
        """
        survivors, dropped = set(request.survivors), set(request.dropped)
        if survivors & dropped:
            raise RefusedError(f"both secrets of {sorted(survivors & dropped)}")
        if self._answered:
            raise RefusedError("a second request")
        if len(survivors) < self._least or self.number not in survivors:
            raise RefusedError(f"{len(survivors)} survivors, {self._least} with this are needed")
        if survivors | dropped != self._shares.keys():
            raise RefusedError("a request of others than those who shared")
        self._answered = True
        return Unmasked(
            self.number,
            {other: self._shares[other][:SECRET] for other in sorted(survivors)},
            {other: self._shares[other][SECRET:] for other in sorted(dropped)},
        )

    def _agreed(self, private: Any, other: bytes, purpose: bytes) -> bytes:
        try:
            return agreed(private, other, purpose, self._session)
        except ValueError as error:
            raise RefusedError(f"a public key that hides nothing: {error}") from error


@dataclass
class SumServer:
    """The server of one secure sum. Its methods are called once each, in order, with what came.

    Each raises SumAbortedError when fewer than `least` clients are left.
    """

    num_clients: int
    """n."""
    least: int
    """How many must stay to the end."""
    num_words: int
    """d, the length of the vectors."""
    session: bytes
    """The sum's name, as the clients know it."""
    survivors: tuple[int, ...] = ()
    """After `request`: whose vectors are in the sum."""
    _roster: dict[int, Advertised] = field(default_factory=dict)
    _sharers: frozenset[int] = frozenset()
    _masked: dict[int, Words] = field(default_factory=dict)

    def roster(self, messages: Iterable[Advertised]) -> tuple[Advertised, ...]:
        """After stage 1: everybody's keys, for everybody."""
        self._roster = self._accepted(messages, range(1, self.num_clients + 1))
        return tuple(self._roster.values())

    def inboxes(self, messages: Iterable[Shared]) -> dict[int, dict[int, bytes]]:
        """After stage 2: to each client that shared, what the others sealed for it."""
        shared = self._accepted(
            (each for each in messages if {*each.sealed, each.sender} == self._roster.keys()),
            self._roster,
        )
        self._sharers = frozenset(shared)
        return {
            receiver: {
                sender: message.sealed[receiver]
                for sender, message in shared.items()
                if sender != receiver
            }
            for receiver in shared
        }

    def request(self, messages: Iterable[Masked]) -> Request:
        """After stage 3: which secrets are needed."""
        masked = self._accepted(
            (each for each in messages if len(each.words) == 4 * self.num_words), self._sharers
        )
        self._masked = {
            sender: np.frombuffer(message.words, dtype="<u4") for sender, message in masked.items()
        }
        self.survivors = tuple(self._masked)
        return Request(self.survivors, tuple(sorted(self._sharers - masked.keys())))

    def total(self, messages: Iterable[Unmasked]) -> Words:
        """After stage 4: the sum of the survivors' vectors modulo 2^32, [d].

        Raises SumAbortedError also where the shares do not make the key that was advertised.
        """
        dropped = self._sharers - self._masked.keys()
        complete = (
            each
            for each in messages
            if each.seeds.keys() == self._masked.keys()
            and each.keys.keys() == dropped
            and all(len(share) == SECRET for share in (*each.seeds.values(), *each.keys.values()))
        )
        helpers = list(self._accepted(complete, self._masked).values())[: self.least]
        total = np.zeros(self.num_words, dtype=np.uint32)
        seeds = secrets_of({each.sender: [each.seeds[i] for i in self._masked] for each in helpers})
        for seed, words in zip(seeds, self._masked.values(), strict=True):
            total += words - keystream(_self_key(seed, self.session), self.num_words)
        gone_ones = sorted(dropped)
        keys = secrets_of({each.sender: [each.keys[i] for i in gone_ones] for each in helpers})
        for gone, secret in zip(gone_ones, keys, strict=True):
            private = private_key(secret, self.session)
            if public_bytes(private) != self._roster[gone].mask_key:
                raise SumAbortedError(f"the shares of client {gone} are wrong")
            for sender in self._masked:
                key = agreed(private, self._roster[sender].mask_key, b"mask", self.session)
                mask = keystream(key, self.num_words)
                # The sender added it, and nobody took it off, if its number is the smaller one.
                total = total - mask if sender < gone else total + mask
        return total

    def _accepted(self, messages: Iterable["_M"], allowed: Iterable[int]) -> dict[int, "_M"]:
        """The first message of each client that may send one, by its number."""
        allowed = set(allowed)
        found: dict[int, _M] = {}
        for message in messages:
            if message.sender in allowed:
                found.setdefault(message.sender, message)
        if len(found) < self.least:
            raise SumAbortedError(f"{len(found)} clients are left, {self.least} are needed")
        return dict(sorted(found.items()))


_M = TypeVar("_M", Advertised, Shared, Masked, Unmasked)


def _context(sender: int, receiver: int) -> bytes:
    return sender.to_bytes(_INDEX, "little") + receiver.to_bytes(_INDEX, "little")


def _self_key(seed: bytes, session: bytes) -> bytes:
    return derived(seed, b"self", session)
