"""Shamir's shares of 16 bytes, many at a time (Shamir, 1979, How to Share a Secret).

The same shares as pycryptodome's `SecretSharing.Shamir`, over the same field GF(2^128), which the
tests hold this to; there, 100 clients that share two secrets each are 20 seconds of Python. Here
one Python number holds many elements of the field side by side, in lanes, so that a shift or an
exclusive or does them all. It takes no constant time, so it must not run where somebody can watch
how long it takes.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from operator import xor

SECRET = 16
"""Bytes of a secret: one element of the field."""
_BITS = 8 * SECRET
_ONES = (1 << _BITS) - 1
_TAPS = (0, 1, 2, 7)
"""x^128 = x^7 + x^2 + x + 1."""
_WIDE = 2 * _BITS
"""Bits of a lane that holds a product before it is reduced."""


def shares_of(secret: bytes, coefficients: Sequence[bytes], num_shares: int) -> list[bytes]:
    """Shares 1 .. n of a secret: the values of c_0 x^k-1 + ... + c_k-2 x + secret, of which any k
    tell the secret and fewer tell nothing, as long as the coefficients [k - 1] are random."""
    masks, ones, width = _points(num_shares)
    overflow = _spread(((1 << width) - 1) ^ _ONES, width, num_shares)
    values = 0
    for coefficient in (*coefficients, secret):
        product = 0
        for bit, mask in enumerate(masks):
            product ^= (values & mask) << bit
        # What a lane's product has beyond 128 bits is less than the number of masks.
        high = product & overflow
        product ^= high
        high >>= _BITS
        for tap in _TAPS:
            product ^= high << tap
        values = product ^ ones * int.from_bytes(coefficient, "big")
    return [
        ((values >> index * width) & _ONES).to_bytes(SECRET, "big") for index in range(num_shares)
    ]


def secrets_of(shares: Mapping[int, Sequence[bytes]]) -> list[bytes]:
    """The secrets [m] of the shares [m] that exactly k holders have, by the holders' numbers."""
    holders = tuple(sorted(shares))
    total = 0
    for holder, factor in zip(holders, _at_zero(holders), strict=True):
        lanes = int.from_bytes(b"".join(bytes(SECRET) + share for share in shares[holder]), "big")
        for bit in range(factor.bit_length()):
            if factor >> bit & 1:
                total ^= lanes << bit
    number = len(shares[holders[0]])
    wide = total.to_bytes(number * _WIDE // 8, "big")
    lanes_of = [wide[start : start + _WIDE // 8] for start in range(0, len(wide), _WIDE // 8)]
    return [_reduced(int.from_bytes(lane, "big")).to_bytes(SECRET, "big") for lane in lanes_of]


@lru_cache(maxsize=8)
def _points(num_shares: int) -> tuple[tuple[int, ...], int, int]:
    """For each bit of a number up to n, all of the 128 bits of the lanes whose number has it; the
    last bit of every lane; the bits of a lane."""
    bits = num_shares.bit_length()
    width = _BITS + bits
    masks = [
        sum(_ONES << (point - 1) * width for point in range(1, num_shares + 1) if point >> bit & 1)
        for bit in range(bits)
    ]
    return tuple(masks), _spread(1, width, num_shares), width


def _spread(value: int, width: int, number: int) -> int:
    """A value in each of so many lanes."""
    return sum(value << index * width for index in range(number))


@lru_cache(maxsize=8)
def _at_zero(holders: tuple[int, ...]) -> list[int]:
    """Lagrange's factors at 0: prod_j x_j / (x_j - x_i) over the other holders j, of each i."""
    factors = []
    for own in holders:
        others = [other for other in holders if other != own]
        above = reduce(_times, others, 1)
        below = reduce(_times, (other ^ own for other in others), 1)
        factors.append(_times(above, _inverse(below)))
    return factors


def _times(first: int, second: int) -> int:
    """The product of two elements."""
    terms = (first << bit for bit in range(second.bit_length()) if second >> bit & 1)
    return _reduced(reduce(xor, terms, 0))


def _reduced(value: int) -> int:
    """A polynomial modulo x^128 + x^7 + x^2 + x + 1."""
    while high := value >> _BITS:
        value = reduce(xor, (high << tap for tap in _TAPS), value & _ONES)
    return value


def _inverse(value: int) -> int:
    """value^(2^128 - 2), by Fermat: 1 over an element that is not zero."""
    result, square = 1, value
    for _ in range(_BITS - 1):
        square = _times(square, square)
        result = _times(result, square)
    return result
