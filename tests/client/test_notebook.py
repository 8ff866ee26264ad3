"""What the notebook of README's examples is made of, and how what its cells show is read."""

import ast
import base64
import io

import pytest
from PIL import Image

from tests.client.notebook import ROOT, cells, notebook, shown

TEXT = (ROOT / "README.md").read_text("utf-8")


def test_cells_are_readmes_own_and_ask_the_server_that_is_there():
    found = cells(TEXT, "http://127.0.0.1:4321")
    assert all(ast.parse(one) for one in found)
    assert "Client('http://127.0.0.1:4321')" in ast.unparse(ast.parse(found[0]))
    assert found[0].splitlines()[-1] == "e"
    for one in found:
        assert one.removesuffix("e").strip().replace("4321", "8000") in TEXT
    assert [cell["source"] for cell in notebook(found)["cells"]] == found


def test_a_readme_without_examples_is_no_success():
    with pytest.raises(ValueError, match="no examples"):
        cells("nothing", "http://127.0.0.1:1")


def test_pictures_and_text_of_a_cell_are_read():
    Image.new("RGB", (30, 20)).save(buffer := io.BytesIO(), "PNG")
    page = f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    outputs = [{"text": ["said\n", "twice"]}, {"data": {"text/html": ["<div>", page, "</div>"]}}]
    assert shown(outputs) == ([(30, 20)], "said\ntwice")
