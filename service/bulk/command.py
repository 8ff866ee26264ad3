"""`heatlens explain METHOD PICTURES... -o DIR/`: here, or by servers."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click

from service import __version__
from service.api import formats, words
from service.api.context import Context
from service.api.formats import Format
from service.bulk.listing import Answers, Listed, listed
from service.bulk.loop import Stop, Tally, run
from service.bulk.manifest import Manifest
from service.bulk.worker import Worker
from service.client import Client, HeatlensError, NotApplicable, Unavailable
from service.errors import InvalidParameter
from service.methods.table import entry
from service.settings import Settings

log = logging.getLogger("heatlens")
NAMES = tuple(ending[1:] for row in formats.TABLE for ending in row.extensions[:1])
"""What may be written, as files' endings without the dot."""


@dataclass(frozen=True)
class Command:
    """What a command line asks of many pictures.

    method: how.
    folder: of the answers.
    targets: as they were written.
    params, output: fields of a request.
    precision: of forwards; None: the default.
    write: of `NAMES`.
    in_flight: pictures at a time in this process, or at each server; None: as many as are good there.
    force, fail_fast: as of `Manifest` and `run`.
    """

    method: str
    folder: Path
    targets: Sequence[str]
    params: dict[str, Any]
    output: dict[str, Any]
    precision: str | None
    write: Sequence[str]
    in_flight: int | None
    force: bool
    fail_fast: bool

    def question(self, targets: Sequence[Any], model: str, version: str) -> dict[str, Any]:
        """Return all that makes an answer what it is, beside the picture: the manifest's first line.

        Parameters that are not named have their defaults, so that it does not matter who says them.
        """
        fields = entry(self.method)["parameters"].get("properties", {})
        return {
            "method": self.method,
            "params": {name: field.get("default") for name, field in fields.items()} | self.params,
            "targets": list(targets),
            "output": self.output,
            "precision": self.precision,
            "write": sorted(self.write),
            "model": model,
            "version": version,
        }

    @property
    def formats(self) -> dict[str, Format]:
        """The formats of the files that are written, by ending.

        Raises:
            InvalidParameter: there is none of a name.
        """
        return {f".{name}": formats.of_file(f"--write .{name}") for name in self.write}


def here(command: Command, pictures: Sequence[Listed], service: Callable[[], AbstractContextManager[Context]]) -> Tally:
    """Explain pictures in this process.

    Args:
        command: what is asked.
        pictures: which.
        service: loads the model; entered once all else has been looked at.

    Raises:
        ServiceError: no picture can be asked about so.
        OSError: nothing can be written.
    """
    from service.ask import Ask
    from service.bulk.local import EACH, Local

    written = command.formats
    fields = {"params": command.params, "output": command.output, "precision": command.precision}
    Ask.explain(command.method, fields)
    with service() as context:
        facts = context.store.get(None).facts
        targets = [words.target(text, facts.labels) for text in command.targets]
        ask = Ask.explain(command.method, fields | {"targets": targets})
        model = context.store.get(None)
        each = command.in_flight or EACH
        worker = Local(context.pipeline, ask, written, each)
        question = command.question(targets, f"{facts.name} {model.version}", __version__)
        return _worked(command, pictures, worker, question, each)


def at_servers(
    command: Command, pictures: Sequence[Listed], urls: Sequence[str], *, model: str | None, api_key: str | None
) -> Tally:
    """Explain pictures by servers.

    Args:
        command: what is asked.
        pictures: which.
        urls: of the servers.
        model: its name there; None: the default one.
        api_key: of all of them.

    Raises:
        InvalidParameter: the servers serve different models under its name.
        Stop: no picture can be answered so.
        OSError: nothing can be written.
    """
    from service.bulk.remote import EACH, Remote

    written, each = command.formats, command.in_flight or EACH
    with ExitStack() as stack:
        # Where there are others, one that is away is not waited for.
        retries = 4 if len(urls) == 1 else 1
        clients = [stack.enter_context(_client(url, api_key, retries)) for url in urls]
        one = _agreed(clients, command.method, model)
        labels = one.labels if command.targets else ()
        targets = [words.target(text, labels) for text in command.targets]
        options = {"params": command.params, "model": model, "precision": command.precision} | command.output
        if targets:
            options["targets"] = targets
        worker = Remote(clients, command.method, options, written, version=one.digest, each=each)
        question = command.question(targets, f"{one.name} {one.digest}", one.version)
        return _worked(command, pictures, worker, question, each * len(urls))


class Served(NamedTuple):
    """What a server would answer with: a model, its digest, its labels, and the service's version."""

    name: str
    digest: str
    labels: tuple[str, ...]
    version: str


def _agreed(clients: Sequence[Client], method: str, model: str | None) -> Served:
    """Return what all servers would answer with that are there; those that will be are told.

    Raises:
        InvalidParameter: they would answer with different things.
        Stop: one of them would not answer, or none is there.
    """
    with ThreadPoolExecutor(len(clients)) as pool:
        found = list(zip(clients, pool.map(lambda client: _served(client, method, model), clients), strict=True))
    there = {client.url: one for client, one in found if isinstance(one, Served)}
    for client, one in found:
        if isinstance(one, HeatlensError):
            if not there or not one.retriable:
                raise Stop(f"{client.url}: {one}")
            log.warning("%s: %s; it is asked again later", client.url, one)
    if len(set(there.values())) > 1:
        said = "; ".join(f"{url}: {one.name} {one.digest} of heatlens {one.version}" for url, one in there.items())
        raise InvalidParameter(f"the servers would not give the same answers: {said}")
    return next(iter(there.values()))


def _client(url: str, api_key: str | None, retries: int) -> Client:
    try:
        return Client(url, api_key=api_key, max_retries=retries)
    except (HeatlensError, ValueError) as error:
        raise Stop(f"{url}: {error}") from None


def _served(client: Client, method: str, model: str | None) -> Served | HeatlensError:
    """Return what a server would answer with, or why it would not."""
    try:
        name = model or next(one.name for one in client.models() if one.default)
        info = client.model(name)
        if info.version is None or info.methods is None:
            return Unavailable(info.error or f"model {name} is {info.status}", retriable=info.status == "loading")
        for use in info.methods:
            if use.name == entry(method)["name"] and not use.applies:
                return NotApplicable(use.reason or f"{method} does not apply to {name}")
        return Served(name, info.version, tuple(client.labels(name)), client.version().version)
    except HeatlensError as error:
        return error


def _worked(
    command: Command, pictures: Sequence[Listed], worker: Worker, question: dict[str, Any], in_flight: int
) -> Tally:
    try:
        with Manifest(command.folder, question, force=command.force) as manifest:
            return run(pictures, manifest, worker.start, in_flight, fail_fast=command.fail_fast)
    except KeyboardInterrupt:  # the second one, and pictures in flight would be waited for; what is written is whole
        os._exit(130)
    finally:
        worker.close()


def _key(file: Path) -> str:
    """Return the key that a file holds.

    Raises:
        UsageError: it holds none.
    """
    words = file.read_bytes().split()
    if len(words) != 1 or not words[0].isascii():
        raise click.UsageError(f"--api-key-file {file}: it has to hold one key, of letters that a header may have")
    return words[0].decode("ascii")


def explain_many(
    method: str,
    named: Sequence[str],
    output: str,
    targets: Sequence[str],
    params: dict[str, Any],
    drawing: dict[str, Any],
    precision: str | None,
    many: dict[str, Any],
    models: dict[str, Any],
    settings: Callable[[], Settings],
    service: Callable[[Settings], AbstractContextManager[Context]],
) -> None:
    """Run the command, and exit: 0 all done, 1 some failed, 2 asked wrongly, 130 interrupted.

    Args:
        method: how.
        named: pictures, as on the command line.
        output: a folder.
        targets, params, drawing, precision: as of `Command`.
        many: options by name: write, in_flight, server, api_key_file, ray, actors, force, fail_fast.
        models: options by name: model, catalog, device.
        settings: makes those of the service of them.
        service: loads the default model.

    Raises:
        click.ClickException: what a user can mend.
        ServiceError: the same, with the service's own words.
    """
    folder = Path(output)
    if many["ray"] and many["server"]:
        raise click.UsageError("--ray and --server: name one of them")
    if "://" in output and not many["ray"]:
        raise click.UsageError(f"--output {output}: only with --ray is anything written elsewhere")
    if folder.is_file() or (folder.suffix and not output.endswith("/") and not folder.is_dir()):
        raise click.UsageError(
            f"--output {output}: name a folder, as {output}/, for many pictures, for --server and for --ray"
        )
    write = tuple(dict.fromkeys(many["write"].replace(",", " ").split()))
    if wrong := [name for name in write if name not in NAMES] or not write:
        raise click.UsageError(f"--write {many['write']}: {wrong} is nothing to write; there are {', '.join(NAMES)}")
    if "image" not in entry(method)["needs"]:
        raise click.UsageError(f"{method} needs no picture, so that there is one answer: write it to a file")
    options = {name: many[name] for name in ("in_flight", "force", "fail_fast")}
    command = Command(method, folder, targets, params, drawing, precision, write, **options)
    try:
        lines = sys.stdin.buffer.read() if "-" in named else b""
        if many["ray"]:
            from service.bulk.cluster import on_ray  # which takes longer to import than all else

            sys.exit(status(on_ray(command, named, lines, output, many["ray"], many["actors"], settings())))
        found = listed(named, lines, Answers(folder, [f".{name}" for name in write]))
        if not many["server"]:
            tally = here(command, found, lambda: service(settings()))
        else:
            if len(models["model"]) > 1 or models["catalog"] or models["device"]:
                raise click.UsageError("with --server name at most one --model, by its name there, and no other models")
            key = _key(Path(many["api_key_file"])) if many["api_key_file"] else None
            name = models["model"][0] if models["model"] else None
            tally = at_servers(command, found, many["server"], model=name, api_key=key)
    except Stop as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename or output}: {error.strerror or error}") from None
    sys.exit(status(tally))


def status(tally: Tally) -> int:
    """Return what a run ends with."""
    return 130 if tally.interrupted else 1 if tally.failed else 0
