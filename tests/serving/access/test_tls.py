"""TLS and mTLS on both ports and towards Triton, with certificates of an authority made for the test."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import trustme

import indomain
from indomain.cli import main
from indomain.v1 import editing_pb2 as pb
from serving.backends.triton import TritonBackend
from serving.errors import CertificateInvalid
from serving.repository.reader import read_bundles
from serving.settings import Settings
from serving.telemetry.metrics import Metrics
from tests.serving.running_gateway import RunningGateway, settings_for
from tests.serving.triton_server import TritonServer, derive_repository
from tests.serving.waiting import wait_for


@dataclass(frozen=True)
class Files:
    """PEM files, as an operator has them."""

    authority: Path
    certificate: Path
    key: Path
    client: tuple[Path, Path]
    stranger: tuple[Path, Path]  # signed by an authority that nobody knows


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")

    def write(certificate: trustme.LeafCert, name: str) -> tuple[Path, Path]:
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(key)
        return chain, key

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    server = write(authority.issue_cert("localhost", "127.0.0.1"), "server")
    client = write(authority.issue_cert("somebody@example.com"), "client")
    stranger = write(trustme.CA().issue_cert("stranger@example.com"), "stranger")
    return Files(folder / "authority.pem", *server, client, stranger)


class Ports:
    """A gateway behind TLS, and its addresses."""

    def __init__(self, running: RunningGateway) -> None:
        self.grpc = f"127.0.0.1:{running.gateway.grpc_port}"
        self.https = f"https://127.0.0.1:{running.gateway.http_port}"


def started(repository: Path, files: Files, **overrides: object) -> RunningGateway:
    return RunningGateway(
        settings_for(repository, tls_certificate=files.certificate, tls_key=files.key, **overrides)
    )


@pytest.fixture(scope="module")
def encrypted(tiny_repository: Path, files: Files) -> Iterator[Ports]:
    running = started(tiny_repository, files)
    yield Ports(running)
    running.close()


@pytest.fixture(scope="module")
def mutual(tiny_repository: Path, files: Files) -> Iterator[Ports]:
    running = started(tiny_repository, files, tls_client_authorities=files.authority, operations_port=0)
    yield Ports(running)
    assert httpx.get(f"http://127.0.0.1:{running.gateway.operations_port}/readyz").status_code == 200
    running.close()


def test_both_ports_are_encrypted_and_checked(encrypted: Ports, files: Files) -> None:
    with indomain.Client(encrypted.grpc, root_certificates=files.authority) as client:
        assert client.sample(1)
    answer = httpx.get(
        f"{encrypted.https}/v1/bundles", verify=ssl.create_default_context(cafile=files.authority)
    )
    assert answer.status_code == 200
    with indomain.Client(encrypted.https, root_certificates=files.authority) as client:
        (sample,) = client.sample(1)
        with client.session(sample) as session:
            assert session.edit(smile=1.0)
    assert "max-age" in answer.headers["strict-transport-security"]


def test_neither_plain_text_nor_an_unknown_authority_gets_through(encrypted: Ports, files: Files) -> None:
    for client in (
        indomain.Client(encrypted.grpc),
        indomain.Client(encrypted.grpc, tls=True),
        indomain.Client(encrypted.grpc, root_certificates=files.stranger[0]),
        indomain.Client(encrypted.https),
        indomain.Client(encrypted.https.replace("https", "http")),
    ):
        with client, pytest.raises(indomain.GatewayUnreachableError):
            client.info(timeout_s=10)
    with pytest.raises(httpx.TransportError):
        httpx.get(encrypted.https.replace("https", "http") + "/healthz")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{encrypted.https}/healthz")


def test_clients_need_a_certificate_where_authorities_are_named(mutual: Ports, files: Files) -> None:
    for address in (mutual.grpc, mutual.https):
        with indomain.Client(
            address, root_certificates=files.authority, client_certificate=files.client
        ) as client:
            assert client.sample(1)
    for certificate in (None, files.stranger):
        client = indomain.Client(
            mutual.grpc, root_certificates=files.authority, client_certificate=certificate
        )
        with client, pytest.raises(indomain.GatewayUnreachableError):
            client.info(timeout_s=10)
    for shown in (None, files.stranger, files.client):
        context = ssl.create_default_context(cafile=files.authority)
        if shown is not None:
            context.load_cert_chain(*shown)
        if shown is files.client:
            assert httpx.get(f"{mutual.https}/v1/bundles", verify=context).status_code == 200
        else:
            with pytest.raises(httpx.TransportError):
                httpx.get(f"{mutual.https}/v1/bundles", verify=context)


def test_the_command_line_speaks_tls(mutual: Ports, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    certificates = [
        "--root-certificates",
        str(files.authority),
        "--client-certificate",
        *map(str, files.client),
    ]
    assert main(["bundles", "--server", mutual.grpc, "--json", *certificates]) == 0
    assert "tiny16" in capsys.readouterr().out
    assert main(["bundles", "--server", mutual.grpc, "--root-certificates", "nowhere.pem"]) == 2


def shown_by(port: int, authority: Path) -> str:
    """Serial number of the certificate that a port shows."""
    context = ssl.create_default_context(cafile=authority)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
        context.wrap_socket(connection, server_hostname="localhost") as encrypted,
    ):
        certificate = encrypted.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


def test_renewed_certificates_are_taken_up_by_both_ports(
    tiny_repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def renew() -> None:
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        leaf.private_key_pem.write_to_path(key)
        leaf.cert_chain_pems[0].write_to_path(certificate)

    renew()
    running = RunningGateway(settings_for(tiny_repository, tls_certificate=certificate, tls_key=key))
    ports = (running.gateway.grpc_port, running.gateway.http_port)
    try:
        before = {shown_by(port, tmp_path / "authority.pem") for port in ports}
        assert len(before) == 1
        certificate.write_text("half of a certificate")  # as an operator's editor leaves it for a moment
        wait_for(lambda: "The certificate from before stays in force" in caplog.text, timeout_s=60.0)
        assert {shown_by(port, tmp_path / "authority.pem") for port in ports} == before
        renew()
        wait_for(
            lambda: not {shown_by(port, tmp_path / "authority.pem") for port in ports} & before,
            timeout_s=60.0,
        )
    finally:
        running.close()


@pytest.mark.parametrize("wrong", ["certificate", "key", "authorities"])
async def test_files_that_are_wrong_are_found_at_start_up(
    wrong: str, files: Files, tiny_repository: Path, tmp_path: Path
) -> None:
    from serving.gateway import Gateway

    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    given = {
        "tls_certificate": bad if wrong == "certificate" else files.certificate,
        "tls_key": files.client[1] if wrong == "key" else files.key,
        "tls_client_authorities": tmp_path / "nowhere.pem" if wrong == "authorities" else files.authority,
    }
    with pytest.raises(CertificateInvalid) as raised:
        await Gateway(settings_for(tiny_repository, **given)).start()
    assert str(tmp_path) not in raised.value.message


def test_a_gateway_reached_from_elsewhere_with_client_certificates_needs_no_keys(
    files: Files, tiny_repository: Path
) -> None:
    given = {"tls_certificate": files.certificate, "tls_key": files.key}
    assert settings_for(tiny_repository, host="0.0.0.0", tls_client_authorities=files.authority, **given)
    with pytest.raises(ValueError, match="nothing says who may call"):
        settings_for(tiny_repository, host="0.0.0.0", **given)


# --- towards Triton ----------------------------------------------------------------------------------


def test_triton_over_tls_with_certificates_on_both_sides(
    files: Files, triton_installed: None, tiny_repository: Path, tmp_path: Path
) -> None:
    server = TritonServer(
        derive_repository(tiny_repository, tmp_path / "repository", instances=1),
        tmp_path / "log",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={files.certificate}",
        f"--grpc-server-key={files.key}",
        f"--grpc-root-cert={files.authority}",
    ).start()
    here = {"backend": "triton", "triton_addresses": (server.address,), "triton_probe_interval_s": 0.1}
    known = {"triton_tls": True, "triton_tls_authorities": files.authority}
    named = dict(zip(("triton_tls_certificate", "triton_tls_key"), files.client, strict=True))
    strange = dict(zip(("triton_tls_certificate", "triton_tls_key"), files.stranger, strict=True))
    try:
        running = RunningGateway(settings_for(tiny_repository, **here, **known, **named))
        assert running.stub.Sample(pb.SampleRequest(seeds=[1]), timeout=20).images
        assert running.metric("indomain_backend_up", address=server.address) == 1
        running.close()
        someone_else = known | {"triton_tls_authorities": files.stranger[0]}
        for refused in ({}, known, known | strange, someone_else | named):
            complaint = asyncio.run(_complaint(settings_for(tiny_repository, **here, **refused)))
            assert complaint, f"got through with {refused}"
    finally:
        server.kill()


async def _complaint(settings: Settings) -> str:
    """Of the only server, once it has been looked at in vain."""
    backend = TritonBackend(read_bundles(settings.model_repository).values(), settings, Metrics())
    loading = asyncio.create_task(backend.load())
    await asyncio.sleep(0)  # load() makes the server
    (server,) = backend._servers
    try:
        async with asyncio.timeout(20.0):
            while not server.complaint and not loading.done():  # noqa: ASYNC110  (its probe sets it)
                await asyncio.sleep(0.02)
        return "" if loading.done() else server.complaint
    finally:
        loading.cancel()
        await backend.close()


@pytest.mark.parametrize("wrong", ["authorities", "certificate", "key"])
def test_files_towards_triton_that_are_wrong_are_found_at_start_up(
    wrong: str, files: Files, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("no certificate")
    settings = Settings(
        triton_tls=True,
        triton_tls_authorities=tmp_path / "nowhere.pem" if wrong == "authorities" else files.authority,
        triton_tls_certificate=bad if wrong == "certificate" else files.client[0],
        triton_tls_key=files.key if wrong == "key" else files.client[1],
    )
    with pytest.raises(CertificateInvalid, match="triton_tls") as raised:
        TritonBackend([], settings, Metrics())
    assert str(tmp_path) not in raised.value.message


@pytest.mark.parametrize(
    "half", [{"triton_tls_authorities": "a.pem"}, {"triton_tls": True, "triton_tls_key": "a.key"}]
)
def test_tls_towards_triton_is_whole_or_not_at_all(half: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="triton_tls"):
        Settings(**half)
