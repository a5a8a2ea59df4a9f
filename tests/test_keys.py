"""Keys: X25519's arithmetic, canonical text, and silence about secrets."""

import base64
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from smartvpn.errors import InvalidKeyError
from smartvpn.keys import PresharedKey, PrivateKey, PublicKey, decode_key, decode_public_key, encode_key

FOLDER = Path(__file__).parent / "vectors"
VECTORS = json.loads((FOLDER / "noise_cacophony_IK.json").read_text())["vectors"]
KEYS = {(v["resp_static"], v["init_remote_static"]) for v in VECTORS if "_25519_" in v["protocol_name"]}
GROUPS = json.loads((FOLDER / "wycheproof_x25519.json").read_text())["testGroups"]
X25519 = [case for group in GROUPS for case in group["tests"]]


def test_public_key_of_the_vectors() -> None:
    """The public key is the one the Noise vectors name."""
    assert KEYS
    for private, public in KEYS:
        assert PrivateKey(bytes.fromhex(private)).public_key == PublicKey(bytes.fromhex(public))


@given(st.binary(min_size=32, max_size=32))
def test_text_round_trip(raw: bytes) -> None:
    """Bytes and base64 are two forms of one value."""
    key = PublicKey(raw)
    assert (PublicKey(key.base64), PublicKey(str(key)).raw, decode_key(key.base64)) == (key, raw, raw)


def test_points_of_low_order() -> None:
    """No public key: the points of low order, in each way to write them, and no others."""
    secrets = {case["public"]: int(case["shared"], 16) for case in X25519}
    assert 0 in secrets.values()
    for public, secret in secrets.items():
        raw = bytes.fromhex(public)
        if secret:
            assert decode_public_key(encode_key(raw)) == raw
        else:
            with pytest.raises(InvalidKeyError, match="low order"):
                decode_public_key(encode_key(raw))


@given(st.binary(max_size=40).filter(lambda raw: len(raw) != 32))
def test_wrong_lengths(raw: bytes) -> None:
    """Neither bytes nor text of another length is a key."""
    for value in (raw, base64.b64encode(raw).decode()):
        with pytest.raises(InvalidKeyError):
            PublicKey(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 43,
        "A" * 42 + "B=",
        "A" * 43 + "=\n",
        " " + "A" * 43 + "=",
        "é" * 44,
        "-" * 43 + "=",
        "A" * 44,
    ],
)
def test_text_that_is_not_canonical(text: str) -> None:
    """Only the form that `wg` prints is taken, and the text is not repeated in the message."""
    with pytest.raises(InvalidKeyError) as caught:
        decode_key(text)
    assert text == "" or text not in str(caught.value)


@pytest.mark.parametrize("kind", [PrivateKey, PresharedKey])
def test_secrets_are_silent(kind: type[PrivateKey] | type[PresharedKey]) -> None:
    """No way of printing shows a secret, nor can it be hashed."""
    key = kind.generate()
    for shown in (repr(key), str(key), f"{key}", f"{[key]}"):
        assert shown.strip("[]") == f"{kind.__name__}(hidden)"
    with pytest.raises(TypeError):
        hash(key)


def test_generated_keys() -> None:
    """Generated keys differ, and private ones are clamped."""
    first, second = PrivateKey.generate(), PrivateKey.generate()
    assert first != second
    assert (first.raw[0] & 7, first.raw[31] & 0xC0) == (0, 0x40)


def test_equality() -> None:
    """Equal bytes of different kinds are different values; public keys hash as they compare."""
    raw = bytes(range(32))
    assert PublicKey(raw) == PublicKey(raw)
    assert PrivateKey(raw) == PrivateKey(raw)
    assert PrivateKey(raw) != PresharedKey(raw)
    assert PublicKey(raw) != raw
    assert len({PublicKey(raw), PublicKey(raw)}) == 1


def test_immutable_and_copied() -> None:
    """A key cannot be changed, and survives pickling."""
    key = PrivateKey(bytes(range(32)))
    with pytest.raises(AttributeError):
        key._raw = bytes(32)
    assert pickle.loads(pickle.dumps(key)) == key
