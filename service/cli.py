"""`heatlens serve | explain | predict | models | methods`."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from service import __version__
from service.errors import CatalogError, ServiceError
from service.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_MODEL_OPTIONS = (
    click.option(
        "--model",
        multiple=True,
        metavar="NAME[=WEIGHTS]",
        help="A model: embedded, torchvision's, or the catalogue's. WEIGHTS: default, random or a file. The first one "
        "is the default. Without it: the embedded models.",
    ),
    click.option("--catalog", metavar="FILE.toml", help="A catalogue of your own models."),
    click.option("--device", metavar="DEVICE", help="auto, cpu or cuda[:N]. Default: auto."),
)


def _with(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _settings(**given: Any) -> Settings:
    """Make settings of the options that were given; what was not comes from HEATLENS_... or the defaults."""
    try:
        return Settings(**{name: value for name, value in given.items() if value not in (None, ())})
    except ValidationError as error:
        problems = "; ".join(f"--{e['loc'][0]}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise click.UsageError(problems) from None


@contextmanager
def _errors() -> Iterator[None]:
    """Show the errors that a user can mend as one line, without a traceback."""
    try:
        yield
    except (ServiceError, CatalogError) as error:
        raise click.ClickException(getattr(error, "detail", str(error))) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="heatlens")
def main() -> None:
    """Explanations of vision networks: what they see, and why.

    Every option of `serve` is also an environment variable: HEATLENS_PORT, HEATLENS_MODEL, ...
    """


@main.command()
@click.option("--host", help="Address to listen on. Default: 127.0.0.1.")
@click.option("--port", type=int, help="TCP port. Default: 8000.")
@_with(*_MODEL_OPTIONS)
@click.option(
    "--log-level", type=click.Choice(["critical", "error", "warning", "info", "debug"]), help="Default: info."
)
def serve(**options: Any) -> None:
    """Serve models over HTTP."""
    settings = _settings(**options)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s %(message)s")
    import uvicorn

    from service.app import choose_device, create_app
    from service.engine.catalog import requested

    with _errors():
        requested(settings.model, settings.catalog)  # a mistake ends the command, not a server half started
        choose_device(settings.device)
    # 65 s of keep-alive outlive the idle connections of the usual proxies, which close theirs after 60.
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        timeout_keep_alive=65,
        log_config=None,
    )


@contextmanager
def _service(settings: Settings) -> Iterator[Any]:
    """Load the default model, without a server."""
    from dataclasses import replace

    from service.app import build, close
    from service.engine.store import Store

    logging.basicConfig(level="WARNING", format="%(message)s")
    context = build(settings)
    try:
        alone = Store({context.store.default: context.store.entry(None).spec}, context.store.default, context.device)
        context.pipeline.store = alone
        context = replace(context, store=alone)
        alone.start()
        alone.wait()
        yield context
    finally:
        close(context)


def _read(picture: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if picture == "-" else Path(picture).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{picture}: {error.strerror}") from None


def _value(text: str) -> Any:
    """Read a parameter's value as JSON where it is, else as a word."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _params(pairs: tuple[str, ...]) -> dict[str, Any]:
    params = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"-p {pair}: write NAME=VALUE, for example -p window=48 or -p 'channels=[3, 7]'")
        params[name.replace("-", "_")] = _value(value)
    return params


@main.command()
@click.argument("method")
@click.argument("picture", required=False)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="File: .png, .npy or .json.")
@click.option("-t", "--target", multiple=True, help="Output index or label; default: the top class. May be repeated.")
@click.option("-p", "--param", multiple=True, metavar="NAME=VALUE", help="A parameter of the method; see `methods`.")
@click.option("--colormap", help="Colour map.")
@click.option("--opacity", type=float, help="Of the map over the picture, 0 to 1.")
@click.option("--size", type=click.Choice(["input", "original"]), help="Of the drawing.")
@click.option("--heatmap", is_flag=True, help="Write the map alone to .png, not over the picture.")
@_with(*_MODEL_OPTIONS)
def explain(
    method: str,
    picture: str | None,
    output: str,
    target: tuple[str, ...],
    param: tuple[str, ...],
    colormap: str | None,
    opacity: float | None,
    size: str | None,
    heatmap: bool,
    **models: Any,
) -> None:
    """Explain PICTURE (a file, or - for standard input) by METHOD, without a server."""
    import orjson

    from service import rendering
    from service.api import body, schemas
    from service.api.explain import request_schema
    from service.engine.device import Run
    from service.explainers import base

    kind = Path(output).suffix.lower()
    if kind not in (".png", ".npy", ".json"):
        raise click.UsageError(f"--output {output}: write to a .png, .npy or .json file")
    with _errors():
        cls = base.method(method)
        drawing = {"colormap": colormap, "opacity": opacity, "size": size}
        fields = {
            "params": _params(param),
            "targets": [int(t) if t.lstrip("-").isdigit() else t for t in target] or None,
            "output": {name: value for name, value in drawing.items() if value is not None},
        }
        asked = body.validate(request_schema(cls), body.Body(fields, None))
        assert isinstance(asked, schemas.ExplainRequest)
        assert isinstance(asked.params, base.Explainer)
        if cls.needs_image and picture is None:
            raise click.UsageError(f"{method} needs a PICTURE")
        data = _read(picture) if picture is not None and cls.needs_image else None
        with _service(_settings(**models)) as context:
            facts = context.store.get(None).facts
            total = asked.params.forwards(facts, len(asked.targets or [0]))
            with click.progressbar(length=total, label=method, file=sys.stderr, hidden=total < 50) as bar:
                run = Run(progress=lambda done: bar.update(min(done, total) - bar.pos))
                answer = context.pipeline.explain(
                    asked.params, model=None, image=data, targets=asked.targets, output=asked.output, run=run
                )
                bar.update(total - bar.pos)
            if kind == ".png" and heatmap:
                encoded = rendering.png(rendering.heatmap(answer.heats[0], answer.picture, answer.output))
            elif kind == ".png":
                encoded = answer.image()
            elif kind == ".npy":
                encoded = answer.array()
            else:
                encoded = orjson.dumps(answer.body, option=orjson.OPT_SERIALIZE_NUMPY)
    try:
        Path(output).write_bytes(encoded)
    except OSError as error:
        raise click.ClickException(f"{output}: {error.strerror}") from None


@main.command()
@click.argument("picture")
@click.option("--top-k", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many classes.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as JSON.")
@_with(*_MODEL_OPTIONS)
def predict(picture: str, top_k: int, as_json: bool, **models: Any) -> None:
    """Say what the default model sees in PICTURE (a file, or - for standard input)."""
    from service.engine.device import Run

    data = _read(picture)
    with _errors(), _service(_settings(**models)) as context:
        answer = context.pipeline.predict(model=None, image=data, top_k=top_k, run=Run())
    if as_json:
        click.echo(json.dumps(answer.body))
        return
    for found in answer.body["predictions"]:
        if "value" in found:
            click.echo(f"{found['value']:10.3f}  {found['label']}")
        else:
            click.echo(f"{found['probability']:8.1%}  {found['label']} ({found['index']})")


@main.command()
@click.option("--torchvision", is_flag=True, help="List all torchvision networks instead.")
@_with(*_MODEL_OPTIONS)
def models(torchvision: bool, **options: Any) -> None:
    """List the models that `serve` would serve with the same options."""
    from service.engine.catalog import requested, torchvision_names

    if torchvision:
        click.echo("\n".join(torchvision_names()))
        return
    settings = _settings(**options)
    with _errors():
        specs, default = requested(settings.model, settings.catalog)
    for name, spec in specs.items():
        height, width = spec.transform.crop
        mark = "*" if name == default else " "
        click.echo(f"{mark} {name}  {spec.task}, {width} x {height}, {len(spec.labels)} labels  ({spec.source})")
    click.echo("* default")


@main.command()
@click.argument("name", required=False)
def methods(name: str | None) -> None:
    """List the explanation methods, or describe one with its parameters."""
    import inspect

    from service.explainers import base

    if name is None:
        for cls in base.registry().values():
            click.echo(f"{cls.name:14}{(inspect.getdoc(cls) or '').partition(chr(10))[0]}")
        return
    with _errors():
        cls = base.method(name)
    click.echo(f"{cls.name}\n\n{inspect.getdoc(cls)}\n\nReference: {cls.reference}\nNeeds: {cls.requirement}")
    click.echo(f"Cost: {cls.cost}\n\nParameters:")
    for field, info in cls.model_fields.items():
        click.echo(f"  {field} = {json.dumps(info.default)}\n      {info.description}")
