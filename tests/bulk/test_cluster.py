"""`--ray` as far as there is no cluster: what actors get, what is refused. `tests/deploy` has the rest."""

import importlib.util

import pytest

from service.bulk.cluster import _each
from tests.bulk.test_command import pictures  # noqa: F401  # a fixture
from tests.test_cli import TINY, run


@pytest.mark.parametrize(
    ("there", "machines", "actors", "expected"),
    [
        ({"CPU": 4}, 1, None, {"devices": 1, "num_cpus": 2}),
        ({"CPU": 66}, 4, None, {"devices": 4, "num_cpus": 16}),
        ({"CPU": 10}, 1, 4, {"devices": 4, "num_cpus": 2}),
        ({"CPU": 2}, 1, None, {"devices": 1, "num_cpus": 0.5}),
        ({"CPU": 64, "GPU": 8}, 2, None, {"devices": 8, "num_cpus": 1, "num_gpus": 1}),
        ({"CPU": 64, "GPU": 8}, 2, 3, {"devices": 3, "num_cpus": 1, "num_gpus": 1}),
    ],
)
def test_actors_leave_cores_to_who_reads_and_writes(there, machines, actors, expected):
    given = _each(there, machines, actors)
    assert given == expected
    assert given["devices"] * given["num_cpus"] <= there["CPU"] - (2 if there["CPU"] > 2 else 1)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("in", "-o", "s3://bucket/out/"), 2, "only with --ray is anything written elsewhere"),
        (("in", "-o", "out/", "--ray", "auto", "--server", "http://127.0.0.1:1"), 2, "name one of them"),
        (("in", "-o", "out.png", "--ray", "auto"), 2, "name a folder"),
        (("in", "-o", "out/", "--ray", "auto"), 1, "pip install 'heatlens[ray]'"),
    ],
)
def test_a_mistake_is_named(pictures, words, code, said):  # noqa: F811
    if "pip" in said and importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    done = run("explain", "cam", *words, *TINY)
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert not (pictures / "out").exists()
