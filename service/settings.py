"""What an operator may set, each of it once.

It is read from environment variables `HEATLENS_...`; options of the command line win over them.
"""

import difflib
import re
import socket
from collections.abc import Container, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.errors import did_you_mean

MOST_ROWS = 4096  # of one forward pass
DAY_S = 86_400  # no wait is longer
# What bounds a forward pass where nothing is set, by the kind of device: its time, and the memory of its activations.
BATCH_MS = {"cpu": 250, "cuda": 50, "xpu": 50, "mps": 100}
BATCH_MIB = {"cpu": 144, "cuda": 8192, "xpu": 4096, "mps": 1024}
# Times as much that a batch of gradients may take, which keeps all it has made.
TRACES = {"cpu": 2, "cuda": 1, "xpu": 1, "mps": 1}
_DEVICE = r"^(auto|cpu|mps|(cuda|xpu)(:\d+)?)$"
EMBEDDED_MODELS = ("efficientnet-lite0", "lesion-count")


_HOST = re.compile(r"\*|[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")  # as a request's `Host` has it, without its port
# What Kubernetes tells every container of a service that is called as ours, or begins so.
_LINKS = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$")
_SECRETS = re.compile("KEY|TOKEN|SECRET|PASSW|AUTH|CREDENTIAL|BEARER|^API$")


def listed(value: Any) -> Any:
    """Return the items of a text, which commas or blanks part; anything else as it is."""
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


class Named(BaseSettings):
    """What paths and hosts are named by: something, or they are not set."""

    @field_validator("catalog", "models", "api_keys_file", "cache_dir", "tuned_dir", mode="before", check_fields=False)
    @classmethod
    def _named(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("it is set and empty, which would be the current folder; name a path, or unset it")
        return value

    @field_validator("allowed_hosts", mode="before", check_fields=False)
    @classmethod
    def _some(cls, value: Any) -> Any:
        named = listed(value)
        if isinstance(value, str) and not named:
            raise ValueError("it is set and holds no name; name the hosts, or * for any, or unset it")
        return named

    @field_validator("allowed_hosts", check_fields=False)
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name that a request may call a server by; write example.org, 10.0.0.1 or [::1], "
                    "without scheme, port and path, or * alone for any"
                )
        return value


class Pictures(Named):
    """What pictures may take, those that come and those that go."""

    max_image_bytes: Annotated[int, Field(ge=1024, description="Largest encoded picture.")] = 16 * 2**20
    max_image_pixels: Annotated[int, Field(ge=1, description="Largest decoded picture.")] = 25_000_000
    pictures_mib: Annotated[
        int,
        Field(
            ge=1,
            description="Memory for large pictures that are decoded or drawn at a time; others wait for it.",
        ),
    ] = 512
    codec_processes: Annotated[
        int | None,
        Field(
            ge=0,
            le=64,
            description="Processes that decode pictures and draw maps, so that the server's own is left to the "
            "networks; 0: it does that itself. Default: the cores but two, at most 8.",
        ),
    ] = None
    codec_cpu_s: Annotated[
        float,
        Field(
            gt=0,
            le=DAY_S,
            description="Processor time for one picture or drawing in a process of its own, which is ended beyond.",
        ),
    ] = 30.0
    max_answer_values: Annotated[
        int, Field(ge=1, description="Raw values of all maps of one answer; a request beyond is answered 422.")
    ] = 4_194_304
    max_answer_pixels: Annotated[
        int,
        Field(ge=1, description="Pixels of all pictures of one answer together; a request beyond is answered 422."),
    ] = 50_000_000


class Settings(Pictures):
    """What an operator may set. Units are in the names."""

    model_config = SettingsConfigDict(env_prefix="HEATLENS_", extra="forbid", frozen=True)

    host: Annotated[str, Field(min_length=1, description="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8000
    root_path: Annotated[
        str,
        Field(
            pattern=r"^(/[A-Za-z0-9._~-]+)*$",
            description="Path that a proxy shows the service under, as `/heatlens`, whether or not it strips it.",
        ),
    ] = ""
    revision: Annotated[
        str | None,
        Field(max_length=64, description="Commit of the build, for `/version`; default: that of the source tree."),
    ] = None
    model: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Models to serve, `SOURCE[=WEIGHTS]`, separated by spaces or commas; the first one is the "
            "default. SOURCE is the name of an embedded network, of torchvision's or of the catalogue's, `timm/NAME`, "
            "`hf/ORG/NAME` or a folder, `FILE.pt2` or `module:callable`; WEIGHTS is `default`, `random` or a file. "
            "Where none is named: the embedded ones."
        ),
    ] = ()
    catalog: Annotated[Path | None, Field(description="TOML file that describes further models.")] = None
    models: Annotated[
        Path | None,
        Field(description="Folder to serve: with a `models.toml`, or one of transformers with its `config.json`."),
    ] = None
    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9_-]{1,128}$", description="What the only model is called, whatever its source says."
        ),
    ] = None
    device: Annotated[str, Field(pattern=_DEVICE, description="`auto`, `cpu`, `cuda[:N]`, `xpu[:N]` or `mps`.")] = (
        "auto"
    )
    log_level: Annotated[
        Literal["critical", "error", "warning", "info", "debug"], Field(description="What is logged, and all above it.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "text"], Field(description="`auto`: text on a terminal, JSON elsewhere.")
    ] = "auto"
    otel: Annotated[
        bool, Field(description="Send OpenTelemetry spans to where OTEL_EXPORTER_OTLP_... says; needs heatlens[otel].")
    ] = False
    page: Annotated[bool, Field(description="Show browsers the page at `/`, to look at explanations with.")] = True
    api_keys: Annotated[
        tuple[SecretStr, ...],
        NoDecode,
        Field(description="Bearer keys, separated by spaces or commas; none: everybody may ask."),
    ] = ()
    api_keys_file: Annotated[
        Path | None,
        Field(
            description="File with further keys, one a line; behind a key, `priority=5` sets the highest priority that "
            "its requests may have."
        ),
    ] = None
    max_priority: Annotated[
        int,
        Field(ge=-10, le=10, description="Highest priority that requests may have; a request above it is a 422."),
    ] = 0
    shares: Annotated[
        Literal["key", "address", "off"],
        Field(
            description="By what callers share the device, threads, connections and memory: their `key`, where they "
            "have one, else their address; the `address` always; `off`: all requests are one caller's."
        ),
    ] = "key"
    trusted_proxies: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Addresses or networks (10.0.0.0/8) of proxies whose `X-Forwarded-For` is believed: a caller "
            "is its last address that is none of theirs. None: a caller is whoever is connected, whatever headers say."
        ),
    ] = ()
    shared_cache: Annotated[
        bool,
        Field(
            description="Let requests of one key be answered from what was kept of another key's. Whoever is answered "
            "at once then learns that somebody has asked the same before."
        ),
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(
            description="Names that requests may call the server by, `*` for any; default: any, but on a loopback "
            "address only localhost, 127.0.0.1 and [::1], as a web page may give its own name that address."
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...], NoDecode, Field(description="Origins whose pages may ask; none: no CORS.")
    ] = ()

    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(
            description="Number format of forwards where a request names none: `auto` takes the fastest one that was "
            "measured to agree for methods that tolerate it (Score-CAM), and fp32 for all else."
        ),
    ] = "auto"
    tune: Annotated[bool, Field(description="Measure batch sizes and precisions while the device is idle.")] = True
    verify: Annotated[
        bool,
        Field(
            description="Find out while the device is idle whether each method's maps depend on what a model has "
            "learnt, and on the class; only with `tune`. What was found earlier is told in any case."
        ),
    ] = True
    cache_dir: Annotated[
        Path | None, Field(description="Where measurements are kept; default: ~/.cache/heatlens, or XDG_CACHE_HOME.")
    ] = None
    tuned_dir: Annotated[
        Path | None,
        Field(description="Where `heatlens tune` wrote measurements, looked at before the cache; it is only read."),
    ] = None

    worker_threads: Annotated[
        int, Field(ge=1, le=256, description="Small requests worked on at a time, and as many of more than 64 passes.")
    ] = 32
    max_batch_rows: Annotated[int, Field(ge=1, le=MOST_ROWS, description="Most rows of one forward pass.")] = 256
    max_batch_ms: Annotated[
        float | None,
        Field(
            gt=0,
            le=60_000,
            description=f"Longest time of one forward pass; default {BATCH_MS['cpu']}, on CUDA {BATCH_MS['cuda']}.",
        ),
    ] = None
    max_batch_mib: Annotated[
        int | None,
        Field(
            ge=1,
            description="Memory for the activations alive in a forward pass without gradients; on a CPU the process "
            "takes about twice as much. A pass with gradients, which keeps what it makes, may take twice as "
            f"much. Default {BATCH_MIB['cpu']}, on CUDA {BATCH_MIB['cuda']}.",
        ),
    ] = None
    max_waiting_passes: Annotated[
        int,
        Field(
            ge=1,
            description="Passes that may wait; a request beyond is answered 429. An idle server takes one of any size.",
        ),
    ] = 65_536
    max_waiting_requests: Annotated[int, Field(ge=1, description="Requests that may wait or be worked on.")] = 512
    clean_activations_mib: Annotated[
        int, Field(ge=1, description="Memory for the activations of pictures whose occlusion is under way.")
    ] = 512
    score_cache_mib: Annotated[
        int, Field(ge=0, description="Memory for outputs of earlier requests, which answer equal ones; 0: none.")
    ] = 256
    bodies_mib: Annotated[
        int,
        Field(ge=1, description="Memory for the bodies of all requests under way; a request beyond is answered 429."),
    ] = 512
    drain_timeout_s: Annotated[
        float, Field(gt=0, le=DAY_S, description="Time to finish accepted work before stopping.")
    ] = 30.0
    body_timeout_s: Annotated[float, Field(gt=0, le=DAY_S, description="Time for a body to arrive.")] = 60.0
    head_timeout_s: Annotated[
        float, Field(gt=0, le=DAY_S, description="Time for a request's head to arrive, and for a first one to begin.")
    ] = 10.0
    least_bytes_per_s: Annotated[
        float,
        Field(
            gt=0,
            le=2**30,
            description="Bytes a second that a body of more than 64 KiB has to arrive at, and an answer be taken at; "
            "slower clients are let go.",
        ),
    ] = 4096.0
    unsent_mib: Annotated[
        int,
        Field(ge=1, description="Memory for answers that their clients have not taken; the slowest client is let go."),
    ] = 256
    max_connections: Annotated[
        int,
        Field(
            ge=1,
            description="Connections open at a time, as far as the process may have descriptors; the one that rests "
            "longest gives way.",
        ),
    ] = 4096
    default_timeout_s: Annotated[float, Field(gt=0, le=DAY_S, description="Deadline of a request without one.")] = 300.0
    max_targets: Annotated[int, Field(ge=1, description="Targets of one request.")] = 16
    stuck_s: Annotated[
        float | None,
        Field(
            gt=0,
            le=DAY_S,
            description="Time after which a batch is taken to hang, and `/health/live` says so; default: ten times the "
            "longest one so far, at least 60. What runs for the server itself, as loading does, has ten minutes at "
            "least.",
        ),
    ] = None
    load_timeout_s: Annotated[
        float, Field(gt=0, le=DAY_S, description="Time after which a model that still loads has failed.")
    ] = 900.0
    readiness_timeout_s: Annotated[float, Field(gt=0, le=DAY_S, description="Patience of /health/ready.")] = 5.0

    @field_validator("model", "api_keys", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return listed(value)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            ip_network(text)
        return value

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks of the proxies that are trusted."""
        return tuple(ip_network(text) for text in self.trusted_proxies)

    @property
    def hosts(self) -> frozenset[str]:
        """Names that the server may be called by, in small letters; none: by any."""
        named = frozenset(name.lower() for name in self.allowed_hosts)
        if "*" in named:
            return frozenset()
        own = f"[{self.host}]" if ":" in self.host else self.host.lower()
        return named or (frozenset(("localhost", "127.0.0.1", "[::1]", own)) if loopback(self.host) else frozenset())

    @property
    def max_body_bytes(self) -> int:
        """Largest request body: a picture in base64, in lines of 76 letters or in one, and room for the rest."""
        return self.max_image_bytes * 45 // 32 + 256 * 1024


def loopback(host: str) -> bool:
    """Whether an address, or all that a name stands for, is reached from this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        found = {ip_address(at[4][0]) for at in socket.getaddrinfo(host, None)}
    except (OSError, ValueError):  # nobody can listen there
        return False
    return all((getattr(one, "ipv4_mapped", None) or one).is_loopback for one in found)


def unknown(names: Iterable[str]) -> list[str]:
    """Return a sentence for each environment variable that looks like a setting and is none."""
    known = [f"HEATLENS_{name.upper()}" for name in Settings.model_fields]
    ours = {name.upper() for name in names if name.upper().replace("_", "").startswith("HEATLENS")}
    wrong = sorted(name for name in ours - set(known) if not _LINKS.search(name))
    return [f"{name} is no setting and has no effect{did_you_mean(name, known)}" for name in wrong]


def secret(name: str) -> bool:
    """Whether a variable that is no setting may have been meant as one of keys."""
    word = name.upper().replace("_", "").removeprefix("HEATLENS")
    if word.endswith("PORT"):  # as Kubernetes writes it for a service of a longer name
        return False
    near = difflib.get_close_matches(word, ("APIKEYS", "APIKEYSFILE", "KEYS"), cutoff=0.7)
    return bool(near or _SECRETS.search(word))


def wrong(error: ValidationError, options: Container[str]) -> str:
    """Return what is wrong with settings, each named by what it was set by: an option, or an environment variable."""
    said = []
    for one in error.errors():
        name = str(one["loc"][0])
        named = f"--{name.replace('_', '-')}" if name in options else f"HEATLENS_{name.upper()}"
        said.append(f"{named}: {one['msg'].removeprefix('Value error, ')} (got {one['input']!r})")
    return "; ".join(said)
