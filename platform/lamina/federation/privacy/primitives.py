"""The primitives of a secure sum: X25519, HKDF-SHA256, ChaCha20 and AES-GCM from `cryptography`, a
well-kept library, and Shamir's shares, whose arithmetic is ours (`shamir`).

Secrets come from the operating system and never from a named seed: a mask that can be computed
again hides nothing. The sum does not depend on them, so a run stays repeatable to the bit.
"""

import secrets
from typing import Any

import numpy as np

from lamina.federation.privacy.extra import privacy_module
from lamina.federation.privacy.quantise import Words
from lamina.federation.privacy.shamir import SECRET, shares_of

NONCE = 12
"""Bytes of an AES-GCM nonce."""


def new_secret() -> bytes:
    """16 random bytes of the operating system."""
    return secrets.token_bytes(SECRET)


def derived(secret: bytes, purpose: bytes, session: bytes) -> bytes:
    """A 32-byte key of a secret, for one purpose and one session only (HKDF-SHA256)."""
    hashes = privacy_module("cryptography.hazmat.primitives.hashes")
    hkdf = privacy_module("cryptography.hazmat.primitives.kdf.hkdf")
    key: bytes = hkdf.HKDF(hashes.SHA256(), 32, salt=session, info=purpose).derive(secret)
    return key


def private_key(secret: bytes, session: bytes) -> Any:
    """The X25519 private key that a secret stands for."""
    x25519 = privacy_module("cryptography.hazmat.primitives.asymmetric.x25519")
    return x25519.X25519PrivateKey.from_private_bytes(derived(secret, b"x25519", session))


def public_bytes(private: Any) -> bytes:
    """The public part of a private key, 32 bytes."""
    key: bytes = private.public_key().public_bytes_raw()
    return key


def agreed(private: Any, other: bytes, purpose: bytes, session: bytes) -> bytes:
    """The 32-byte key that a private key and the private part of public key `other` agree on.

    Raises ValueError for a public key with which every private key agrees on the same.
    """
    x25519 = privacy_module("cryptography.hazmat.primitives.asymmetric.x25519")
    shared = private.exchange(x25519.X25519PublicKey.from_public_bytes(other))
    return derived(shared, purpose, session)


def keystream(key: bytes, num_words: int) -> Words:
    """That many words of ChaCha20's keystream: a mask uniform over Z_2^32. A key makes one mask, so
    the nonce is constant."""
    ciphers = privacy_module("cryptography.hazmat.primitives.ciphers")
    cipher = ciphers.Cipher(ciphers.algorithms.ChaCha20(key, bytes(16)), mode=None)
    return np.frombuffer(cipher.encryptor().update(bytes(4 * num_words)), dtype="<u4")


def sealed(key: bytes, message: bytes, context: bytes) -> bytes:
    """AES-256-GCM under a fresh nonce, which is put before; `context` must be the same to open."""
    nonce = secrets.token_bytes(NONCE)
    data: bytes = _aead().AESGCM(key).encrypt(nonce, message, context)
    return nonce + data


def opened(key: bytes, data: bytes, context: bytes) -> bytes:
    """The content that `sealed` encrypted. Raises ValueError if it was changed, or is for someone
    else."""
    invalid = privacy_module("cryptography.exceptions").InvalidTag
    try:
        message: bytes = _aead().AESGCM(key).decrypt(data[:NONCE], data[NONCE:], context)
    except invalid as error:
        raise ValueError("a sealed message was changed, or is for someone else") from error
    return message


def split(secret: bytes, least: int, num_shares: int) -> dict[int, bytes]:
    """Shamir's shares 1 .. n of 16 bytes; any `least` of them tell the secret, fewer nothing."""
    coefficients = [new_secret() for _ in range(least - 1)]
    return dict(enumerate(shares_of(secret, coefficients, num_shares), start=1))


def _aead() -> Any:
    return privacy_module("cryptography.hazmat.primitives.ciphers.aead")
