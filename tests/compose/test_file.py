"""docker-compose.yml read as a file: what holds for each service, whoever runs it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import yaml

from shared.settings import load
from tests.compose.first_start import module
from tests.support.servers.process import ROOT

TEXT = (ROOT / "docker-compose.yml").read_text("utf-8")
PROJECT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
VARIABLE = re.compile(r"\$\{([A-Z_0-9]+):-([^}]*)\}")
ONCE = {"secrets", "migrate", "demo"}
"""These end when they have done their work."""
OURS = {name for name, one in SERVICES.items() if "LAMPPOST_INSTANCE" in one.get("environment", {})}
LASTING = OURS - ONCE
SERVERS = {"kafka", "postgres", "seaweedfs"}
USERS = {
    "secrets": 0,
    "kafka": 1000,
    "postgres": 999,
    "seaweedfs": 1000,
    "prometheus": 65534,
    "grafana": 472,
}
"""The others are the image's own user, 10001."""
SECRETS_OF = {"kafka", "postgres", "seaweedfs", "grafana"}
every = pytest.mark.parametrize("name", sorted(SERVICES))


def default(text: object) -> str:
    """A value as it is where no variable is set."""
    return VARIABLE.sub(lambda match: match[2], str(text))


def mounts(name: str) -> dict[str, str]:
    """What is mounted where: a volume's name or a path, by its target."""
    found = {}
    for mount in SERVICES[name].get("volumes", []):
        if isinstance(mount, str):
            source, target = default(mount).split(":")[:2]
        else:
            source, target = mount["source"], mount["target"]
        found[target] = source
    return found


@every
def test_it_is_limited_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and "/tmp" in service["tmpfs"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged") and "pid" not in service and "ipc" not in service
    assert service["mem_limit"] and service["cpus"] and service["pids_limit"]
    assert service["logging"]["options"] == {"max-size": "10m", "max-file": "3"}
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


def test_recording_comes_first_where_processors_are_short() -> None:
    """A container of which nothing is said has 1,024 shares."""
    shares = {name: service.get("cpu_shares", 1024) for name, service in SERVICES.items()}
    recording = {"ingest", "spool", "ingest2", "spool2"}
    looking = {"detect", "detect-gpu"}
    least = min(shares[name] for name in recording)
    others = {name: shares[name] for name in shares.keys() - recording - looking}
    assert least >= 4 * max(others.values())
    assert max(shares[name] for name in looking) < min(others.values())


@every
def test_it_is_no_root_and_has_no_capability(name: str) -> None:
    """But for the one that gives volumes away, which has no network to be reached by."""
    service = SERVICES[name]
    user = service.get("user", "10001:10001").split(":")[0]
    assert int(user) == USERS.get(name, 10001)
    if name == "secrets":
        assert service["network_mode"] == "none" and "networks" not in service
    else:
        assert "cap_add" not in service and service["networks"]


@every
def test_its_image_is_one_version(name: str) -> None:
    repository, colon, tag = default(SERVICES[name]["image"]).rpartition(":")
    assert repository and colon and re.match(r"v?\d", tag), "a version, never latest"


@every
def test_its_health_is_asked_for(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check == {"disable": True} if name in ONCE else check["test"][0] == "CMD"


@every
def test_no_password_stands_in_it(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|SECRET|TOKEN|KEY", key):
            assert str(value).startswith("/etc/lamppost/"), f"{key} must be a file's path"


@pytest.mark.parametrize("name", sorted(OURS))
def test_its_settings_are_settings(name: str) -> None:
    """Every key is known and every default is valid; the start would refuse it otherwise."""
    values = {key: default(value) for key, value in SERVICES[name]["environment"].items()}
    settings = load(values)
    assert settings.stores.bus == "kafka" and settings.postgres.host == "postgres"
    assert settings.instance and settings.metrics.port == 9100


def test_each_instance_has_its_name_and_a_recorder_shares_its_own_with_its_spool() -> None:
    names = [(SERVICES[name]["environment"]["LAMPPOST_INSTANCE"], name) for name in sorted(OURS)]
    by_instance: dict[str, set[str]] = {}
    for instance, name in names:
        by_instance.setdefault(instance, set()).add(name)
    shared = {frozenset(group) for group in by_instance.values() if len(group) > 1}
    assert shared == {frozenset({"ingest", "spool"}), frozenset({"ingest2", "spool2"})}
    for recorder, spool in shared and (("ingest", "spool"), ("ingest2", "spool2")):
        volume = mounts(recorder)["/var/lib/lamppost"]
        assert mounts(spool)["/var/lib/lamppost"] == volume


def test_a_recorder_has_time_to_hand_its_cameras_over() -> None:
    handover_s = load({}).ingest.handover_s
    guide = (ROOT / "docs" / "guide" / "compose.md").read_text("utf-8")
    for name in ("ingest", "ingest2"):
        grace_s = int(SERVICES[name]["stop_grace_period"].removesuffix("s"))
        assert grace_s >= handover_s + 10
        assert f"restart --timeout {grace_s} ingest" in guide
        # podman knows no grace of its own, and kills after ten seconds.
        assert f"--timeout {grace_s} " in (ROOT / "compose" / "roll.sh").read_text("utf-8")


def test_only_the_api_and_grafana_are_published_and_only_here() -> None:
    published = {name: one["ports"] for name, one in SERVICES.items() if "ports" in one}
    assert published.keys() == {"api", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_servers_are_reached_by_the_services_alone() -> None:
    assert PROJECT["networks"]["stores"] == {"internal": True} == PROJECT["networks"]["services"]
    on_stores = {name for name, one in SERVICES.items() if "stores" in one.get("networks", ())}
    assert on_stores == OURS | SERVERS
    assert all(SERVICES[name]["networks"] == ["stores"] for name in SERVERS)


def test_each_sees_only_its_own_secrets() -> None:
    for name in SERVICES.keys() - {"secrets"}:
        seen = {source for source in mounts(name).values() if "secrets" in source}
        allowed = {f"{name}-secrets"} if name in SECRETS_OF else {"secrets"}
        if name in ("ingest", "ingest2"):
            allowed |= {"camera-secrets"}
        assert seen <= allowed, name


def test_it_starts_in_order() -> None:
    """Secrets, servers that are healthy, the schema, the services."""
    for name in LASTING:
        assert _after(name) == {"migrate": "service_completed_successfully"}
    assert _after("migrate") == dict.fromkeys(SERVERS, "service_healthy")
    for name in SERVERS:
        assert _after(name) == {"secrets": "service_completed_successfully"}
    assert _after("demo") == {"api": "service_healthy", "cameras": "service_healthy"}


def _after(name: str) -> dict[str, str]:
    needs = SERVICES[name].get("depends_on", {})
    return {other: how["condition"] for other, how in needs.items()}


def test_profiles_hold_what_is_optional() -> None:
    profiles = {name: one["profiles"] for name, one in SERVICES.items() if "profiles" in one}
    assert profiles == {
        "cameras": ["demo"],
        "demo": ["demo"],
        "detect-gpu": ["gpu"],
        "relay": ["relay"],
        "prometheus": ["observability"],
        "grafana": ["observability"],
    }


def test_the_first_start_gives_every_volume_to_who_writes_it() -> None:
    first = module()
    given = mounts("secrets")
    named = {source for source in given.values() if not source.startswith(".")}
    assert named == PROJECT["volumes"].keys()
    for name in SERVICES.keys() - {"secrets"}:
        user = USERS.get(name, 10001)
        for source in mounts(name).values():
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name} mounts {source}"
                continue
            [place] = [target for target, volume in given.items() if volume == source]
            kind, folder = place.split("/")[2:]
            owners = {**first.OWNERS, "cameras": 10001} if kind == "secrets" else first.VOLUMES
            assert owners[folder] == user, f"{name} cannot use {source}"


def test_prometheus_asks_every_service() -> None:
    config = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text("utf-8"))
    asked: set[str] = set()
    for job in config["scrape_configs"]:
        for group in job.get("static_configs", ()):
            asked |= set(group["targets"])
        for group in job.get("dns_sd_configs", ()):
            assert group["type"] == "A"
            asked |= {f"{name}:{group['port']}" for name in group["names"]}
    assert asked == {f"{name}:9100" for name in LASTING}


@pytest.mark.parametrize("name", ["kafka.sh", "postgres.sh", "seaweedfs.sh", "roll.sh"])
def test_a_script_can_be_read(name: str) -> None:
    subprocess.run(["sh", "-n", ROOT / "compose" / name], check=True)


def test_rolling_takes_one_recorder_after_the_other() -> None:
    text = (ROOT / "compose" / "roll.sh").read_text("utf-8")
    [order] = re.findall(r'services=\$\{\*:-"([^"]+)"\}', text)
    # Whoever uses the others' profiles names them.
    assert set(order.split()) == LASTING - {"detect-gpu", "relay"}
    assert order.split()[-2:] == ["spool2", "ingest2"]
    # Readers of rows before their writers (docs/decisions/0019).
    assert order.split().index("api") < order.split().index("index")


def test_every_variable_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "guide" / "compose.md").read_text("utf-8")
    names = {match[0] for match in VARIABLE.findall(TEXT)}
    assert names and all(name.startswith("LP_") for name in names)
    assert {name for name in names if f"`{name}`" not in guide} == set()
