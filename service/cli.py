"""`heatlens serve | explain | gallery | predict | verify | models | methods | tune`."""

import gc
import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from service import __version__, bulk
from service.api import words
from service.errors import CatalogError, ModelFailed, ServiceError
from service.machine import waiting

if TYPE_CHECKING:  # `--help` and `methods` take no time that they do not need
    from service.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_MODEL_OPTIONS = (
    click.option(
        "--model",
        multiple=True,
        metavar="SOURCE[=WEIGHTS]",
        help="A model: the name of an embedded one, of torchvision's or the catalogue's, timm/NAME, hf/ORG/NAME or a "
        "folder of transformers, FILE.pt2, module:callable. WEIGHTS: default, random or a file. The first one is the "
        "default. Without it: the embedded models.",
    ),
    click.option("--catalog", metavar="FILE.toml", help="A catalogue of your own models."),
    click.option("--device", metavar="DEVICE", help="auto, cpu, cuda[:N], xpu[:N] or mps. Default: auto."),
)


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _settings(**given: Any) -> "Settings":
    """Make settings of the options that were given; what was not comes from HEATLENS_... or the defaults."""
    from pydantic import ValidationError

    from service.settings import Settings, wrong

    given = {name: value for name, value in given.items() if value not in (None, ())}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise click.UsageError(wrong(error, given)) from None


@contextmanager
def _errors() -> Iterator[None]:
    """Show the errors that a user can mend as one line, without a traceback."""
    try:
        yield
    except ModelFailed as error:  # here the network's author is likely to be who reads it
        said = error.raised.strip().rpartition("\n")[2]
        raise click.ClickException(f"{error.detail} ({said})" if said else error.detail) from None
    except (ServiceError, CatalogError) as error:
        raise click.ClickException(getattr(error, "detail", str(error))) from None


@contextmanager
def _lasting() -> Iterator[None]:
    """Look for no garbage in what lasts as long as the process: neither while it is imported, nor ever after."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="heatlens")
def main() -> None:
    """Explanations of vision networks: what they see, and why.

    Every option of `serve` is also an environment variable: HEATLENS_PORT, HEATLENS_MODEL, ...
    """
    waiting.settle()  # before anything imports PyTorch


@main.command()
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="TCP port. Default: 8000.")
@_with(*_MODEL_OPTIONS)
@click.option(
    "--models",
    metavar="DIR",
    help="A folder to serve, as storage initialisers fill it: with a models.toml, or one of transformers.",
)
@click.option("--name", help="What the only model is called, whatever its source says.")
@click.option(
    "--log-level", type=click.Choice(["critical", "error", "warning", "info", "debug"]), help="Default: info."
)
@click.option("--log-format", type=click.Choice(["auto", "json", "text"]), help="Default: text on a terminal.")
def serve(**options: Any) -> None:
    """Serve models over HTTP."""
    settings = _settings(**options)
    with _lasting():
        from service.app import create_app
        from service.machine.accelerators import choose_device
        from service.models.choice import chosen
        from service.process import prepare_process
        from service.server import logs
        from service.server.server import Server

        prepare_process()  # first: what logs has a thread
        logs.configure(settings.log_level, settings.log_format)
        with _errors():
            # A mistake ends the command, not a server half started.
            chosen(settings.model, settings.catalog, settings.models, settings.name)
            choose_device(settings.device)
            app = create_app(settings)
    server = Server(app, settings)
    server.run()
    server.leave()


@contextmanager
def _service(settings: "Settings", *, all_models: bool = False) -> Iterator[Any]:
    """Load the default model, or all of them, without a server; what networks print meanwhile is no output."""
    from service.app import build
    from service.models.networks.forms import aside
    from service.process import prepare_process

    logging.basicConfig(level="WARNING", format="%(message)s")
    prepare_process()
    with aside():
        yield from _served(build(settings.model_copy(update={"tune": False})), all_models=all_models)


def _served(context: Any, *, all_models: bool) -> Iterator[Any]:
    from service.app import close
    from service.engine.store import Store

    try:
        if not all_models:
            default = context.store.default
            alone = Store({default: context.store.entry(None).spec}, default, context.device, context.store.tuner)
            context.pipeline.store = alone
            context = replace(context, store=alone)
        context.store.start()
        context.store.wait(proofs=False)  # whoever needs one waits for it
        yield context
    finally:
        close(context)


def _read(picture: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if picture == "-" else Path(picture).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{picture}: {error.strerror}") from None


def _params(
    pairs: tuple[str, ...], form: str = "NAME=VALUE, for example -p window=48 or -p 'channels=[3, 7]'"
) -> dict[str, Any]:
    params = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"-p {pair}: write {form}")
        params[name] = words.value(value)
    return params


@main.command()
@click.argument("method")
@click.argument("pictures", nargs=-1)
@click.option(
    "-t",
    "--target",
    multiple=True,
    help="What to explain: a label, an output's index, or JSON as in a request's `targets`. Default: what the model "
    "says. May be repeated.",
)
@click.option("-p", "--param", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; see `methods`.")
@click.option("--colormap", help="Colour map.")
@click.option("--opacity", type=float, help="Of the map over the picture, 0 to 1.")
@click.option("--size", type=click.Choice(["input", "original"]), help="Of the drawing.")
@click.option("--heatmap", is_flag=True, help="Draw the map alone, not over the picture.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16"]), help="Of forwards. Default: auto.")
@_with(*bulk.OPTIONS)
@_with(*_MODEL_OPTIONS)
def explain(method: str, pictures: tuple[str, ...], output: str, target: tuple[str, ...], **others: Any) -> None:
    """Explain PICTURES by METHOD.

    One picture (a file, or - for standard input) into a file; or files, folders, patterns, and - for a list of files on
    standard input, into a folder. What a folder holds already is not done again.
    """
    from service.api import formats
    from service.ask import Ask
    from service.engine.scheduler.run import Run
    from service.explainers import base

    drawing = {name: value for name in ("colormap", "opacity", "size") if (value := others.pop(name)) is not None}
    drawing |= {"overlay": False} if others.pop("heatmap") else {}
    params = {name.replace("-", "_"): value for name, value in _params(others.pop("param")).items()}
    precision = others.pop("precision")
    many = {name: others.pop(name) for name in bulk.NAMES}
    if len(pictures) > 1 or output.endswith("/") or Path(output).is_dir() or many["server"] or many["ray"]:
        from service.bulk.command import explain_many

        with _errors():
            asked = method, pictures, output, target, params, drawing, precision
            explain_many(*asked, many, others, lambda: _settings(**others), _service)
    picture = pictures[0] if pictures else None
    try:
        format = formats.of_file(output)
    except ServiceError as error:
        raise click.UsageError(f"--output {error.detail}") from None
    if len(target) > 1 and format.single:
        raise click.UsageError(
            f"--output {output}: such a file shows one map, and {len(target)} targets are named; write to a .json or "
            ".zip file, or name one target"
        )
    with _errors():
        cls = base.method(method)
        fields = {
            "params": params,
            "targets": [words.target(text) for text in target],
            "output": drawing,
            "precision": precision,
        }
        ask = Ask.explain(method, fields)
        if cls.needs_image:
            if picture is None:
                raise click.UsageError(f"{method} needs a PICTURE")
            ask = replace(ask, pictures=(_read(picture),))
        with _service(_settings(**others)) as context:
            labels = context.store.get(None).facts.labels if target else ()
            plan = context.pipeline.plan(replace(ask, targets=tuple(words.target(text, labels) for text in target)))
            run = Run(expected=plan.passes)
            with click.progressbar(length=plan.passes, label=method, file=sys.stderr, hidden=plan.passes < 50) as bar:

                def progress() -> None:
                    bar.length = run.expected
                    bar.update(run.done - bar.pos)

                run.progress = progress
                answer = context.pipeline.work(plan, run, format.needs)
    _write(output, format.encode(answer))


@main.command()
@click.argument("picture")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="File: .png or .jpg.")
@click.option("--other", metavar="PICTURE", help="For methods that only apply to another model, as `ram` does.")
@click.option("-p", "--param", multiple=True, metavar="METHOD.NAME=VALUE", help="A parameter of one of the methods.")
@click.option("--only", multiple=True, metavar="METHOD", help="Draw this method; may be repeated. Default: all.")
@_with(*_MODEL_OPTIONS)
def gallery(
    picture: str, output: str, other: str | None, param: tuple[str, ...], only: tuple[str, ...], **models: Any
) -> None:
    """Draw what every method makes of PICTURE, side by side."""
    from service.explainers import base
    from service.gallery import gallery as draw

    params: dict[str, dict[str, Any]] = {}
    with _errors():
        for name, value in _params(param, "METHOD.NAME=VALUE, for example -p occlusion.window=48").items():
            method, _, field = name.partition(".")
            params.setdefault(base.method(method).name, {})[field.replace("-", "_")] = value
        only = tuple(base.method(name).name for name in only)
        seen = _read(picture), _read(other) if other is not None else None
        with _service(_settings(**models), all_models=True) as context:
            sheet = draw(context.pipeline, *seen, params, lambda name: click.echo(name, err=True), only)
    try:
        sheet.save(output, quality=88, optimize=True)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{output}: {error}; write to a .png or .jpg file") from None


def _write(path: str, data: bytes) -> None:
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


@main.command()
@click.argument("picture")
@click.option("--top-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many classes.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@_with(*_MODEL_OPTIONS)
def predict(picture: str, top_k: int, as_json: bool, **models: Any) -> None:
    """Say what the default model sees in PICTURE (a file, or - for standard input)."""
    from service.api import formats
    from service.ask import Ask
    from service.engine.scheduler.run import Run

    ask = Ask.predict({"top_k": top_k}, _read(picture))
    with _errors(), _service(_settings(**models)) as context:
        answer = context.pipeline.work(context.pipeline.plan(ask), Run(), formats.JSON.needs)
    if as_json:
        click.echo(formats.JSON.encode(answer))
        return
    for found in answer.predictions:
        if found.norm is not None:
            click.echo(f"{found.norm:10.3f}  length of the embedding")
        elif found.value is not None:
            click.echo(f"{found.value:10.3f}  {found.label}")
        else:
            share = next(n for n in (found.probability, found.share, found.score) if n is not None)
            place = f"  at {', '.join(f'{edge:.0f}' for edge in found.box)}" if found.box is not None else ""
            click.echo(f"{share:8.1%}  {found.label} ({found.index}){place}")


@main.command()
@_with(*_MODEL_OPTIONS, click.option("--into", required=True, metavar="FOLDER", help="For HEATLENS_TUNED_DIR."))
def tune(into: str, **options: Any) -> None:
    """Measure how models run best on this kind of processor, as when an image is built; a server reads it."""
    from service.tuning.beforehand import tuned

    with _errors(), _service(_settings(**options, cache_dir=into), all_models=True) as context:
        said = tuned(context.store, context.device, context.settings)
    click.echo(said)


@main.command()
@click.argument("model")
@click.option("--method", multiple=True, metavar="METHOD", help="Test this one; may be repeated. Default: all.")
@_with(*_MODEL_OPTIONS[1:])
def verify(model: str, method: tuple[str, ...], **options: Any) -> None:
    """Test whether each method's maps depend on what MODEL has learnt, and on the class. Takes minutes."""
    from service.explainers import base
    from service.sanity.verifier import Verifier

    settings = _settings(model=(model,), **options)
    with _errors():
        only = [base.method(name).name for name in method]
        with _service(settings) as context:
            spec, served = context.store.entry(None).spec, context.store.get(None)
            found = Verifier(context.device, settings).verify(spec, served, threading.Event(), only or None)
    for name, one in sorted(found.items()):
        numbers = "  ".join("-" if n is None else f"{n:.2f}" for n in (one.mprt, one.random_logit))
        click.echo(f"{name:24}{one.verdict:16}{numbers:14}{one.reason or ''}".rstrip())


@main.command()
@click.option("--torchvision", is_flag=True, help="List all torchvision networks instead.")
@_with(*_MODEL_OPTIONS)
def models(torchvision: bool, **options: Any) -> None:
    """List the models that `serve` would serve with the same options."""
    from service.models.choice import chosen
    from service.models.networks.forms import aside
    from service.models.sources.torchvision import torchvision_names

    if torchvision:
        click.echo("\n".join(torchvision_names()))
        return
    settings = _settings(**options)
    with _errors(), aside():
        specs, default = chosen(settings.model, settings.catalog, settings.models, settings.name)
    for name, spec in specs.items():
        height, width = spec.transform.crop
        mark = "*" if name == default else " "
        if spec.mistake:
            click.echo(f"{mark} {name}  cannot be set up: {spec.mistake}")
            continue
        click.echo(f"{mark} {name}  {spec.task.name}, {width} x {height}, {len(spec.labels)} labels  ({spec.source})")
    click.echo("* default")


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the explanation methods, or describe one with its parameters."""
    from service.methods.table import entry, families, table

    if name is None:
        width = max(map(len, table())) + 4
        for family, about in families().items():
            click.echo(f"{family}: {about}")
            for known in (known for known in table().values() if known["family"] == family):
                click.echo(f"{'  ' + known['name']:{width}}{known['summary']}")
                facts = known["kind"], ", ".join(known["needs"]) or "nothing", known["cost"], known["reference"]
                click.echo(" " * width + "; ".join(facts))
        return
    with _errors():
        known = entry(name)
    click.echo(f"{known['name']}\n\n{known['description']}\n\nReference: {known['reference']}")
    click.echo(f"Needs: {known['requirement']}\nTakes: {', '.join(known['needs']) or 'nothing'}")
    click.echo(f"Maps: {known['kind']}\nCost: {known['cost']}\n\nParameters:")
    for field, schema in known["parameters"].get("properties", {}).items():
        click.echo(f"  {field} = {json.dumps(schema.get('default'))}\n      {schema.get('description')}")
