"""What is measured before anything is served is what a server reads."""

import pytest

from service.app import build, close
from service.errors import CatalogError
from service.settings import Settings
from service.tuning import Tuner
from service.tuning.beforehand import tuned


@pytest.fixture
def service(tmp_path):
    catalog = tmp_path / "one.toml"
    catalog.write_text("[models.one]\nfactory = 'tests.tiny:regression'\ninput_size = 32\n")
    context = build(Settings(catalog=catalog, model=("one",), device="cpu", max_batch_rows=2, tune=False))
    context.store.start()
    assert context.store.wait(60)
    yield context
    close(context)


def test_a_server_reads_what_was_written(service, tmp_path):
    settings = service.settings.model_copy(update={"cache_dir": tmp_path / "tuned"})
    said = tuned(service.store, service.device, settings)
    assert said.startswith("one: ")
    assert " in fp32" in said
    (file,) = (tmp_path / "tuned").glob("measured-*.json")
    before = file.read_bytes()
    assert tuned(service.store, service.device, settings) == said
    assert file.read_bytes() == before  # it is known
    reading = service.settings.model_copy(update={"cache_dir": tmp_path / "own", "tuned_dir": tmp_path / "tuned"})
    assert Tuner(service.device, reading).recall(service.store.get("one"))


def test_where_nothing_can_be_written_nothing_is_measured(service, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CatalogError, match="nothing can be written to"):
        tuned(service.store, service.device, service.settings.model_copy(update={"cache_dir": tmp_path / "file"}))
