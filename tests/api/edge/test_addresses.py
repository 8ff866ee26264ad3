import pytest

from service.api.edge.addresses import FIRST, HEALTH, PAGES
from service.app import create_app
from service.errors import CatalogError
from service.settings import Settings
from tests.api.conftest import addresses
from tests.conftest import CATALOG

PATHS = {path for _, path in addresses(create_app(Settings(catalog=CATALOG)))} | {"/openapi.json"}


def test_every_address_of_the_services_own_has_a_name():
    assert {path.split("/")[1] for path in PATHS - {"/"}} == set(FIRST)


def test_what_is_told_apart_is_there():
    assert {*HEALTH, *PAGES} <= PATHS


@pytest.mark.parametrize("first", FIRST)
def test_no_path_of_a_proxys_hides_any(first):
    with pytest.raises(CatalogError, match=f"hides an address of the service's own, /{first}"):
        create_app(Settings(catalog=CATALOG, root_path=f"/{first}"))
