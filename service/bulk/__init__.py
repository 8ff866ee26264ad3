"""Many pictures from the command line: files in, files out, and a manifest that lets the next run go on."""

import click

OPTIONS = (
    click.option(
        "-o",
        "--output",
        required=True,
        type=click.Path(),
        help="File: .json for all of it, .png, .webp or .jpg for the first map's picture, .npy for its array, .zip for "
        "all maps. Or a folder, for any number of pictures.",
    ),
    click.option(
        "--write", default="png", show_default=True, help="Into a folder: endings of the files, as png,npy,json."
    ),
    click.option(
        "--in-flight", type=click.IntRange(1, 256), help="Pictures at a time. Default: 8, and 16 at each server."
    ),
    click.option("--server", multiple=True, metavar="URL", help="Let servers do it; may be repeated."),
    click.option("--api-key-file", type=click.Path(exists=True, dir_okay=False), help="Holds the servers' key."),
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Let a Ray cluster do it, and write Parquet: its HOST:PORT, `auto` for the one that this machine is part "
        "of, or `local` to begin one here. Pictures and folder may be addresses, as s3://BUCKET/FOLDER/.",
    ),
    click.option("--actors", type=click.IntRange(1, 10_000), help="With --ray: each holds one device. Default: all."),
    click.option("--force", is_flag=True, help="Begin anew in a folder that holds other answers."),
    click.option("--fail-fast", is_flag=True, help="Begin no more pictures after the first failure."),
)
"""Where `heatlens explain` writes to, and what it takes for many pictures."""
NAMES = ("write", "in_flight", "server", "api_key_file", "ray", "actors", "force", "fail_fast")
"""The names of the options for many pictures."""
