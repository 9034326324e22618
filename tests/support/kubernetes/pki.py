"""The authority of one cluster: certificates for its servers and clients, as PEM files."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.support.servers.certificates import BEGIN

END = BEGIN + datetime.timedelta(days=30 * 365)
CURVE = ec.SECP256R1()


class Authority:
    """`ca.crt` of a folder, and what it signs beside it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(CURVE)
        self._name = _name("test-ca")
        builder = self._builder(self._name, self._key.public_key())
        root = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(_pem(root.sign(self._key, hashes.SHA256())))

    def sign(
        self,
        name: str,
        common_name: str,
        *,
        organisation: str = "",
        addresses: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> tuple[Path, Path]:
        """`NAME.crt` and `NAME.key`, good for a server and for a client."""
        key = new_key(self.folder / f"{name}.key")
        found: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        found += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = self._builder(_name(common_name, organisation), key.public_key())
        builder = builder.add_extension(x509.ExtendedKeyUsage(both), critical=False)
        if found:
            builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
        path = self.folder / f"{name}.crt"
        path.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        return path, self.folder / f"{name}.key"

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(BEGIN)
            .not_valid_after(END)
        )


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A key in the one form that Kubernetes reads both as a private and as a public key."""
    key = ec.generate_private_key(CURVE)
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return key


def _name(common_name: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organisation:
        parts.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(parts)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
