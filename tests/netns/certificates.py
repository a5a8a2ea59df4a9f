"""Certificates as the `openssl` command makes them, and one of yesterday."""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import ssl
import subprocess
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


@frozen
class Certificate:
    """A certificate and its key, in files of PEM."""

    cert: Path
    key: Path

    @property
    def cert_text(self) -> str:
        """The certificate as PEM text."""
        return self.cert.read_text()

    @property
    def key_text(self) -> str:
        """The key as PEM text."""
        return self.key.read_text()

    def locked_key_text(self) -> str:
        """The key as PEM text that a passphrase protects."""
        return _openssl("ec", "-aes128", "-passout", "pass:secret", "-in", str(self.key))

    @property
    def pin(self) -> str:
        """What a client is given as `serverCertHash`."""
        der = ssl.PEM_cert_to_DER_cert(self.cert_text)
        return base64.b64encode(hashlib.sha256(der).digest()).decode()


def self_signed(folder: Path, name: str, *addresses: str) -> Certificate:
    """A certificate for the addresses that vouches for itself; as a CA too, for who trusts it."""
    made = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    names = ",".join(f"IP:{address}" for address in addresses) or f"DNS:{name}"
    _openssl(
        *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"),
        *("-out", str(made.cert), "-keyout", str(made.key)),
    )
    return made


def expired(folder: Path, name: str, address: str) -> Certificate:
    """The same, but that its time was over yesterday."""
    made = self_signed(folder, name, address)
    key = serialization.load_pem_private_key(made.key.read_bytes(), None)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    old = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 1)  # type: ignore[arg-type]
        .not_valid_before(yesterday - datetime.timedelta(days=30))
        .not_valid_after(yesterday)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())  # type: ignore[arg-type]
    )
    made.cert.write_bytes(old.public_bytes(serialization.Encoding.PEM))
    return made


def _openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout
