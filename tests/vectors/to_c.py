"""Turns the JSON test vectors into C headers: python3 to_c.py OUTDIR.

One header per suite, each an array of structs and nothing else, so that the C tests need no JSON parser.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

BYTES_HEADER = """\
#ifndef SV_VECTOR_BYTES_H
#define SV_VECTOR_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vector_bytes {
    const uint8_t *p; /* never NULL */
    size_t len;
};

#endif
"""

AEAD_STRUCT = """\
static const struct {
    int id;
    bool valid;
    struct vector_bytes key, nonce, ad, text, sealed; /* sealed: ciphertext, then the tag */
}"""

XDH_STRUCT = """\
static const struct {
    int id;
    struct vector_bytes private_key, public_key, shared;
}"""

NOISE_STRUCT = """\
static const struct {
    const char *source;
    struct vector_bytes prologue, psk; /* no psk: IK, else IKpsk2 */
    struct vector_bytes init_static, init_ephemeral, resp_static, resp_ephemeral, resp_public;
    struct vector_bytes hash; /* empty where the source has none */
    size_t count;
    struct {
        struct vector_bytes payload, message;
    } messages[8];
}"""

NOISE_SOURCES = ("cacophony", "snow", "noise-c-basic", "noise-c-cacophony")
NOISE_SUITE = "25519_ChaChaPoly_BLAKE2s"


def c_bytes(text: str) -> str:
    """A hex string as an initialiser of struct vector_bytes."""
    data = bytes.fromhex(text)
    literal = "".join(f"\\x{byte:02x}" for byte in data)
    return f'{{(const uint8_t *)"{literal}", {len(data)}}}'


def c_struct(values: Iterable[str]) -> str:
    return "{" + ", ".join(values) + "}"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return content


def tests_of(name: str) -> list[dict[str, Any]]:
    """All tests of a Wycheproof file."""
    return [test for group in load(name)["testGroups"] for test in group["tests"]]


def aead_rows(name: str) -> list[str]:
    return [
        c_struct(
            [
                str(test["tcId"]),
                "true" if test["result"] == "valid" else "false",
                *(c_bytes(test[field]) for field in ("key", "iv", "aad", "msg")),
                c_bytes(test["ct"] + test["tag"]),
            ]
        )
        for test in tests_of(name)
    ]


def xdh_rows(name: str) -> list[str]:
    return [
        c_struct([str(test["tcId"]), *(c_bytes(test[field]) for field in ("private", "public", "shared"))])
        for test in tests_of(name)
    ]


def noise_row(source: str, vector: dict[str, Any]) -> str:
    if vector["init_prologue"] != vector["resp_prologue"]:
        raise ValueError(f"{source}: the two ends differ in their prologue")
    psks = vector.get("init_psks") or [""]
    messages = [
        c_struct([c_bytes(message["payload"]), c_bytes(message["ciphertext"])])
        for message in vector["messages"]
    ]
    return c_struct(
        [
            f'"{source}"',
            c_bytes(vector["init_prologue"]),
            c_bytes(psks[0]),
            c_bytes(vector["init_static"]),
            c_bytes(vector["init_ephemeral"]),
            c_bytes(vector["resp_static"]),
            c_bytes(vector["resp_ephemeral"]),
            c_bytes(vector["init_remote_static"]),
            c_bytes(vector.get("handshake_hash", "")),
            str(len(messages)),
            c_struct(messages),
        ]
    )


def noise_rows() -> list[str]:
    """IK and IKpsk2 of every source; other patterns are not spoken here."""
    wanted = {f"Noise_{pattern}_{NOISE_SUITE}" for pattern in ("IK", "IKpsk2")}
    return [
        noise_row(source, vector)
        for source in NOISE_SOURCES
        for vector in load(f"noise_{source}_IK")["vectors"]
        if vector.get("protocol_name", vector.get("name")) in wanted
    ]


def header(struct: str, name: str, rows: list[str]) -> str:
    body = "".join(f"    {row},\n" for row in rows)
    return f'#include "vector_bytes.h"\n\n{struct} {name}[] = {{\n{body}}};\n'


SUITES: dict[str, tuple[str, Callable[[], list[str]]]] = {
    "chacha20_vectors": (AEAD_STRUCT, lambda: aead_rows("wycheproof_chacha20_poly1305")),
    "xchacha20_vectors": (AEAD_STRUCT, lambda: aead_rows("wycheproof_xchacha20_poly1305")),
    "x25519_vectors": (XDH_STRUCT, lambda: xdh_rows("wycheproof_x25519")),
    "noise_vectors": (NOISE_STRUCT, noise_rows),
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: to_c.py OUTDIR", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    out.mkdir(parents=True, exist_ok=True)
    (out / "vector_bytes.h").write_text(BYTES_HEADER, encoding="utf-8")
    for name, (struct, rows) in SUITES.items():
        (out / f"{name}.h").write_text(header(struct, name, rows()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
