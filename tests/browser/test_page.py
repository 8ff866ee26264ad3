"""The page in a real browser, on the embedded models: looked at, asked, broken, and read to those who do not see it.

Needs Playwright, axe and Debian's chromium, which `.ci/parts/browser` brings; without them it is skipped.
"""

from __future__ import annotations

import base64
import importlib.resources
import io
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.api.pages.files import files
from service.client import Client, wire
from service.settings import Settings
from tests.conftest import CATALOG, encoded, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright; .ci/parts/browser brings it")
pytest.importorskip("axe_playwright_python", reason="no axe; .ci/parts/browser brings it")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: apt-get install chromium", allow_module_level=True)
expect = sync_api.expect

PATIENCE_MS, NUMBER = 60_000.0, re.compile(r"\d")
AXE = (importlib.resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")
DROP = """async ([data, name, type, padding]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes, new Uint8Array(padding)], name, { type }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }
}"""

KEPT = """() => {
  window.kept = [];
  const { fetch } = window;
  window.fetch = (url, options = {}) => {
    const { body, headers } = options;
    if (body instanceof FormData) {
      const sent = [...body].filter(([, one]) => one instanceof File);
      const names = Object.fromEntries(sent.map(([key, one]) => [key, one.name]));
      window.kept.push({ path: new URL(url).pathname, ...JSON.parse(body.get("request")), names, headers });
    }
    return fetch(url, options);
  };
}"""

EXPLAINED = '(count) => window.kept.filter(({ path }) => path.startsWith("/explain/")).length >= count'


@pytest.fixture(scope="module")
def server() -> Iterator[httpx.Client]:
    """The embedded models, as whoever installs it gets them."""
    with serving(Settings(device="cpu")) as client:
        yield client


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Desk:
    """A page, and all that it asked for and complained of."""

    def __init__(self, browser: Browser, server: httpx.Client, **options: Any) -> None:
        self.base = str(server.base_url).rstrip("/")
        self.context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1280, "height": 900}} | options)
        self.context.set_default_timeout(20_000)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def keep(self) -> None:
        """Keep what every request says, before anything is asked."""
        self.context.add_init_script(f"({KEPT})()")

    def asked(self, count: int = 0) -> list[dict[str, Any]]:
        """Return what was asked since the last look: each request, with its path and its files' names.

        What is shown may be the answer of before for a while: so it is waited for `count` explanations to be asked for.
        """
        self.page.wait_for_function(EXPLAINED, arg=count, timeout=PATIENCE_MS)
        found: list[dict[str, Any]] = self.page.evaluate("() => window.kept.splice(0)")
        return found

    def open(self, state: str = "") -> None:
        self.page.goto(f"{self.base}/{state}")

    def take(self, sample: str = "A cat") -> None:
        self.page.get_by_role("button", name=sample).first.click()
        self.done(1)

    def add(self, *titles: str) -> None:
        self.page.get_by_role("button", name="Add methods").click()
        for title in titles:
            self.page.locator(".method", has=self.page.get_by_text(title, exact=True)).click()
        self.page.get_by_role("button", name="Done").click()

    def beside(self) -> None:
        """Take a picture, and a second one beside it."""
        self.take()
        self.page.get_by_text("Beside a second one").click()
        self.page.locator(".beside").get_by_role("button", name="An astronaut").click()
        self.done(2)

    def done(self, count: int) -> None:
        expect(self.page.locator("[data-state=done]")).to_have_count(count, timeout=PATIENCE_MS)

    def drop(self, content: bytes, name: str, kind: str, padding: int = 0) -> None:
        self.page.evaluate(DROP, [base64.b64encode(content).decode(), name, kind, padding])

    def card(self, title: str) -> Locator:
        return self.page.get_by_role("article", name=title, exact=True)

    def violations(self) -> list[str]:
        """Return what axe finds wrong with what is shown."""
        self.page.evaluate(AXE)
        found = self.page.evaluate("() => axe.run()")["violations"]
        return [f"{one['id']}: {node['html'][:200]} {node['any'][:1]}" for one in found for node in one["nodes"]]


@pytest.fixture
def desk(browser: Browser, server: httpx.Client) -> Iterator[Desk]:
    """A page that has nothing to complain of in the end, and has asked nobody but its server."""
    desk = Desk(browser, server)
    yield desk
    assert desk.complaints == []
    assert [url for url in desk.requests if not url.startswith((desk.base, "blob:", "data:"))] == []
    desk.context.close()


def pixels(canvas: Locator) -> np.ndarray[Any, Any]:
    """Return what is painted on a canvas, (h, w, 3)."""
    url = canvas.evaluate("(canvas) => canvas.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"), np.int16)


# First screen


def test_a_dropped_picture_is_explained_at_once(desk: Desk, chelsea: bytes) -> None:
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    welcomed = len(desk.requests)
    desk.drop(chelsea, "cat.png", "image/png")
    desk.done(1)
    expect(desk.page.locator(".predictions li").first).to_contain_text("cat")
    expect(desk.card("Grad-CAM").locator("canvas").first).to_be_visible()
    assert [url for url in desk.requests[welcomed:] if not url.startswith("blob:")] == [f"{desk.base}/explain/grad-cam"]
    nodes = desk.page.evaluate("() => document.querySelectorAll('*').length")
    assert (welcomed, nodes) < (40, 250)
    assert nodes < 250


@pytest.mark.parametrize("method", ["grad-cam", "occlusion", "saliency"])
def test_maps_are_drawn_as_the_server_draws_them(desk: Desk, server: httpx.Client, method: str) -> None:
    desk.open(f"#m={method}")
    desk.take()
    found = pixels(desk.page.locator(".canvas canvas"))
    sent = {"image": files()["photographs/chelsea.jpg"].content}
    answer = server.post(f"/explain/{method}", files=sent).json()["maps"][0]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["heatmap"]))).convert("RGB"), np.int16)
    assert found.shape == drawn.shape
    assert (np.abs(found - drawn).max(2) <= 6).mean() > 0.999  # rounding may take the next colour of 256


# Several methods


def test_methods_side_by_side_and_a_map_that_sharpens(desk: Desk) -> None:
    desk.open()
    desk.take()
    desk.add("Occlusion", "Saliency", "RISE")
    desk.done(3)
    rough = desk.card("RISE").locator(".rough canvas")
    expect(rough).to_be_visible()
    before = pixels(rough)
    expect(desk.card("RISE").get_by_text("left", exact=False)).to_be_visible()
    while (pixels(rough) == before).all():  # the next one is another one
        desk.page.wait_for_timeout(100)
    desk.card("RISE").get_by_role("button", name="Stop").click()
    expect(desk.card("RISE").get_by_text("Stopped.")).to_be_visible()


def test_opacity_and_colours_ask_nothing(desk: Desk) -> None:
    desk.open()
    desk.take()
    canvas = desk.page.locator(".canvas")
    asked, seen = len(desk.requests), [canvas.screenshot()]
    desk.page.get_by_label("Opacity").fill("0.9")
    desk.page.wait_for_timeout(300)  # its transition
    seen.append(canvas.screenshot())
    desk.page.get_by_label("Heat").select_option("viridis")
    desk.page.wait_for_timeout(300)
    seen.append(canvas.screenshot())
    assert len(set(seen)) == 3
    assert desk.requests[asked:] == []


def test_values_are_read_in_all_maps_at_once_by_pointer_and_keys(desk: Desk) -> None:
    desk.open("#m=grad-cam|saliency")
    desk.page.get_by_role("button", name="A cat").first.click()
    desk.done(2)
    values = desk.page.locator("output.value")
    desk.page.locator(".canvas").first.hover()
    expect(values.nth(0)).to_have_text(NUMBER)
    expect(values.nth(1)).to_have_text(NUMBER)
    desk.page.mouse.move(0, 0)
    expect(values.nth(0)).to_have_text("")
    desk.page.locator(".canvas").nth(1).focus()
    desk.page.keyboard.press("ArrowLeft")
    expect(values.nth(0)).to_have_text(NUMBER)


def test_a_click_on_a_prediction_and_a_name_choose_the_class(desk: Desk) -> None:
    desk.open()
    desk.take()
    desk.page.locator(".predictions button").nth(2).click()
    expect(desk.page.locator(".usage")).to_contain_text("tabby")
    desk.page.get_by_label("Explain the class").fill("Egyptian cat")
    desk.page.keyboard.press("Enter")
    expect(desk.page.locator(".usage")).to_contain_text("Egyptian cat")
    desk.page.get_by_label("rather than").fill("tiger cat")
    desk.page.keyboard.press("Enter")
    desk.done(1)
    assert desk.page.evaluate("() => decodeURIComponent(location.hash)").count("tiger+cat") == 1


def test_a_value_is_asked_about_in_turn(bench: Desk) -> None:
    """What raises it, what lowers it, and no longer alone."""
    bench.keep()
    bench.open("#model=tiny-regression&sample=chelsea&m=saliency")
    bench.done(1)
    bench.asked(1)
    value = bench.page.locator(".predictions button").first
    asked = []
    for title, pressed in (("raises", "true"), ("lowers", "true"), ("all values", "false")):
        expect(value).to_have_attribute("title", re.compile(title))
        value.click()
        expect(value).to_have_attribute("aria-pressed", pressed)
        (one,) = bench.asked(1)
        bench.done(1)
        asked.append(one.get("targets"))
    assert asked == [[{"output": 0, "direction": "up"}], [{"output": 0, "direction": "down"}], None]


def test_parameters_are_a_form_and_what_is_wrong_is_said_there(desk: Desk) -> None:
    desk.open("#m=occlusion")
    desk.take()
    card = desk.card("Occlusion")
    card.get_by_role("button", name="Parameters").click()
    expect(card.get_by_label("fill")).to_have_value("mean")
    expect(card.locator(".field small").first).to_have_attribute("lang", "en")  # in whichever language the page is
    card.get_by_label("window").fill("64")
    card.get_by_role("button", name="Run").click()
    desk.done(1)
    card.get_by_label("stride").fill("32")
    card.get_by_role("button", name="Run").click()
    desk.done(1)
    card.get_by_role("button", name="Take along").click()
    card.get_by_text("Parameters as used").click()
    expect(card.locator("pre").nth(2)).to_contain_text(re.compile(r'"window": 64,\s+"stride": 32'))


def test_a_second_picture_beside_the_first(desk: Desk) -> None:
    desk.open()
    desk.beside()
    expect(desk.page.locator(".beside .predictions li")).to_have_count(5)
    place = desk.page.locator(".drawn").bounding_box()  # also where there is more beside the maps than a screen holds
    assert place is not None
    assert place["height"] > 100
    desk.page.get_by_role("button", name="Remove the second").click()
    desk.done(1)


# What there is to choose, on the small networks


@pytest.fixture(scope="module")
def small() -> Iterator[httpx.Client]:
    """The small networks of `catalog.toml`."""
    with serving(Settings(catalog=CATALOG, device="cpu")) as client:
        yield client


@pytest.fixture
def bench(browser: Browser, small: httpx.Client) -> Iterator[Desk]:
    """As `desk`, on the small networks."""
    desk = Desk(browser, small)
    yield desk
    assert desk.complaints == []
    desk.context.close()


def test_what_is_taken_along_is_the_map_that_is_shown(bench: Desk, tmp_path: Path) -> None:
    bench.open('#sample=chelsea&m=feature-factorisation|feature-maps~{"layers":["conv1"],"top_k":5}')
    bench.done(2)
    card = bench.card("Feature factorisation")
    card.get_by_role("button", name="Take along").click()
    card.get_by_label("Map").select_option(index=2)

    def taken(card: Locator, name: str) -> tuple[str, bytes]:
        with bench.page.expect_download() as download:
            card.get_by_role("button", name=name).click()
        download.value.save_as(tmp_path / "taken")
        return download.value.suggested_filename, (tmp_path / "taken").read_bytes()

    whole = wire.ExplainResponse.model_validate_json(taken(card, "JSON")[1])
    name, data = taken(card, "NumPy")
    sent = whole.maps[2].array
    assert sent is not None
    assert isinstance(sent.data, str)
    assert name == "feature-factorisation-part-3.npy"
    assert np.load(io.BytesIO(data)).tobytes() == base64.b64decode(sent.data)
    assert taken(card, "PNG")[0] == "feature-factorisation-part-3.png"
    grid = bench.card("Feature maps")
    grid.get_by_role("button", name="Take along").click()
    with Image.open(io.BytesIO(taken(grid, "PNG")[1])) as image:
        assert image.size == (3 * 32, 2 * 32)  # five parts, three in a row


def test_a_layer_is_chosen_by_its_name_and_shape(bench: Desk) -> None:
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    card = bench.card("Grad-CAM")
    card.get_by_role("button", name="Parameters").click()
    layers = card.get_by_label("layer")
    expect(layers).to_have_value("relu2")
    expect(layers.locator("option", has_text="conv1")).to_have_text(re.compile("conv1 +8 . 32 . 32"))
    layers.select_option("conv1")
    card.get_by_role("button", name="Run").click()
    expect(card.locator(".usage")).to_contain_text(re.compile("32 . 32"))


def test_what_does_not_fit_the_model_says_why_and_is_not_taken(bench: Desk) -> None:
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.get_by_role("button", name="Add methods").click()
    method = bench.page.locator(".method", has=bench.page.get_by_text("RAM", exact=True))
    assert method.get_attribute("aria-disabled") == "true"
    reason = method.get_attribute("title")
    assert reason is not None
    assert "regression" in reason
    expect(method).to_contain_text(reason)
    method.click(force=True)
    bench.page.get_by_role("button", name="Done").click()
    expect(bench.page.get_by_role("article")).to_have_count(1)


def test_what_takes_longer_is_told_by_what_it_takes_on_this_model(bench: Desk, small: httpx.Client) -> None:
    """The tiny network has a pooled head, behind which switching a channel off takes no pass."""
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.get_by_role("button", name="Add methods").click()
    slow = bench.page.locator(".method", has=bench.page.locator(".slow"))
    known = wire.ModelInfo.model_validate(small.get("/models/tiny").json()).methods or []
    expect(slow).to_have_count(sum((one.passes or 0) > 40 for one in known))
    expect(slow.filter(has_text="Extremal perturbation")).to_have_count(1)
    for quick in ("Saliency", "DeconvNet", "Ablation-CAM", "Recipro-CAM"):
        expect(slow.filter(has=bench.page.get_by_text(quick, exact=True))).to_have_count(0)


def test_pictures_are_chosen_from_a_disk_and_pasted(bench: Desk, chelsea: bytes) -> None:
    bench.open()
    picture = {"name": "mine.png", "mimeType": "image/png", "buffer": chelsea}
    bench.page.locator(".choose input[type=file]").set_input_files(picture)  # type: ignore[arg-type]
    bench.done(1)
    expect(bench.page.get_by_role("img", name="mine.png")).to_be_visible()
    bench.page.evaluate(
        """(data) => {
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          const clipboardData = new DataTransfer();
          clipboardData.items.add(new File([bytes], "pasted.png", { type: "image/png" }));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData }));
        }""",
        base64.b64encode(chelsea).decode(),
    )
    expect(bench.page.get_by_role("img", name="pasted.png")).to_be_visible()
    bench.done(1)


def test_a_second_model_beside_the_first(bench: Desk) -> None:
    bench.open("#sample=chelsea&m=grad-cam|cam")
    bench.done(2)
    bench.page.get_by_text("Beside a second one").click()
    bench.page.get_by_label("Second model").select_option("tiny-vgg")
    bench.done(3)
    expect(bench.card("CAM").locator("[data-state=barred]")).to_contain_text("Not for this model")
    expect(bench.card("Grad-CAM").get_by_text("Second: tiny-vgg")).to_be_visible()


def test_a_second_model_looks_at_whatever_picture_the_first_one_looks_at(bench: Desk) -> None:
    bench.keep()
    bench.open("#sample=chelsea&m=grad-cam&model2=tiny-vgg&sample2=")
    bench.done(2)
    bench.asked(2)
    bench.page.locator(".choose").get_by_role("button", name="An astronaut").click()
    asked = {(one["model"], one["names"]["image"]) for one in bench.asked(2)}
    bench.done(2)
    assert asked == {("tiny", "astronaut.jpg"), ("tiny-vgg", "astronaut.jpg")}
    bench.page.wait_for_function(
        """() => {
          const shown = [...document.querySelectorAll(".canvas > img, .beside figure img")];
          const loaded = shown.filter((one) => one.complete && one.naturalWidth && one.src === shown[0].src);
          return shown.length === 3 && loaded.length === 3;
        }"""
    )


def test_a_second_picture_is_looked_at_by_whatever_model_looks_at_the_first(bench: Desk) -> None:
    bench.keep()
    bench.open("#sample=chelsea&m=grad-cam&model2=tiny&sample2=coffee")
    bench.done(2)
    bench.asked(2)
    bench.page.locator(".predictions button").nth(1).click()  # whose aim ends with the model
    bench.asked(2)
    bench.done(2)
    bench.page.get_by_label("Model", exact=True).select_option("tiny-vgg")
    expect(bench.page.locator(".beside .predictions li")).to_have_count(5)
    asked = bench.asked(2)
    bench.done(2)
    assert {(one["model"], one["names"]["image"]) for one in asked} == {
        ("tiny-vgg", "chelsea.jpg"),
        ("tiny-vgg", "coffee.jpg"),
    }
    assert not any("targets" in one for one in asked)


def test_an_aim_ends_with_its_picture_in_both_lanes(bench: Desk) -> None:
    bench.keep()
    bench.open("#sample=chelsea&m=grad-cam&model2=tiny&sample2=coffee")
    bench.done(2)
    bench.asked(2)
    bench.page.locator(".predictions button").nth(1).click()
    left, right = bench.asked(2)
    bench.done(2)
    assert left["targets"] == right["targets"]
    bench.page.locator(".choose").get_by_role("button", name="An astronaut").click()
    asked = bench.asked(2)
    bench.done(2)
    assert {one["names"]["image"] for one in asked} == {"astronaut.jpg", "coffee.jpg"}
    assert not any("targets" in one for one in asked)


def module(desk: Desk, name: str, script: str, given: object = None) -> Any:
    """Call a function of (a module of the page, what is given) in the page."""
    desk.open()
    return desk.page.evaluate(f"async (given) => ({script})(await import('/ui/{name}.js'), given)", given)


PERSON: dict[str, Any] = {"index": 15, "label": "person"}
DOG: dict[str, Any] = {"index": 2, "label": "dog"}
CAT: dict[str, Any] = {"index": 3, "label": "cat"}
RANKED = DOG | {"asked": {"detection": 2}}
BOXED = PERSON | {"asked": {"class": 15, "region": [1, 2, 3, 4]}}
AIMS: list[tuple[str, dict[str, Any], str, list[dict[str, Any]], object]] = [
    # The tasks of two models, what is chosen, where it is asked about, what is seen there, and how it is said there.
    # A class of one segmenter is asked of another by its name; a box of one picture says nothing about another.
    (
        "ss",
        PERSON | {"asked": {"class": 15, "region": "predicted"}},
        "bu",
        [],
        {"class": "person", "region": "predicted"},
    ),
    ("ss", BOXED, "bu", [], {"class": "person", "region": [1, 2, 3, 4]}),
    ("ss", BOXED, "av", [], {"class": 15, "region": "predicted"}),
    # A rank is another object's in another picture: the surest one of its kind stands for it.
    ("dd", RANKED, "av", [{"rank": 0, "label": "cat"}, {"rank": 1, "label": "dog"}], {"detection": 1}),
    ("dd", RANKED, "av", [{"rank": 0, "label": "cat"}], None),
    # Another detector is asked about the place of the object in the same picture.
    ("dd", RANKED, "bu", [], {"box": [1, 1, 5, 5], "class": "dog"}),
    # Only some tasks can tell a class from others, and the lane's own task counts.
    ("cc", CAT, "bu", [], {"class": "cat", "against": ["bird"]}),
    ("cc", CAT, "av", [], {"class": 3, "against": [9]}),
    ("cs", CAT, "bu", [], {"class": "cat", "region": "predicted"}),
    ("cr", CAT, "bu", [], None),
    # A number is no name.
    ("cc", CAT | {"label": "3"}, "bu", [], None),
]


def test_a_target_is_put_into_the_words_of_the_other_lane(bench: Desk) -> None:
    names = {"s": "segmentation", "d": "detection", "c": "classification", "r": "regression"}
    cases = [
        {
            "info": {name: {"task": names[task]} for name, task in zip("ab", tasks, strict=True)},
            "target": target,
            "against": {"index": 9, "label": "bird"},
            "lanes": [
                {"model": "a", "picture": {"url": "u"}, "predictions": [DOG | {"rank": 2, "box": [1, 1, 5, 5]}]},
                {"model": place[0], "picture": {"url": place[1]}, "predictions": seen},
            ],
        }
        for tasks, target, place, seen, _ in AIMS
    ]
    script = """({ Session }, cases) => cases.map((state) => {
      const session = new Session();
      session.set(state);
      return session.target(1);
    })"""
    assert module(bench, "session", script, cases) == [expected for *_, expected in AIMS]


def test_what_waits_goes_on_where_the_second_is_removed(bench: Desk) -> None:
    """Both of what runs is the second's: the first's has to start though nothing ends."""
    script = """({ Session }) => {
      const session = new Session();
      const asked = [];
      session.ask = (card, lane) => asked.push([card.method, lane]);
      const lanes = ["u", "v"].map((url) => ({ model: "a", picture: { url }, predictions: [] }));
      const methods = ["one", "two"].map((name) => ({ name, cost: "", needs: ["image", "targets"] }));
      const runs = [{ state: "waiting" }, { state: "running" }];
      const cards = methods.map(({ name }, id) => ({ id, method: name, params: {}, runs }));
      session.set({ info: { a: { task: "classification" } }, lanes, methods, cards });
      session.beside(null);
      return [asked, session.state.lanes.length];
    }"""
    assert module(bench, "session", script) == [[["one", 0], ["two", 0]], 1]


@pytest.mark.parametrize(("sent", "said"), [("flat", "This map is flat"), ("all_negative", "No value is above zero")])
def test_what_a_map_does_not_say_is_said(bench: Desk, sent: str, said: str) -> None:
    def change(route: Any) -> None:
        route.fulfill(body=(found := route.fetch()).text().replace(f'"{sent}":false', f'"{sent}":true'), response=found)

    bench.page.route("**/explain/grad-cam", change)
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    expect(bench.card("Grad-CAM")).to_contain_text(said)


def test_a_link_is_copied(bench: Desk) -> None:
    bench.context.grant_permissions(["clipboard-read", "clipboard-write"])
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.get_by_role("button", name="Copy link").click()
    expect(bench.page.get_by_role("button", name="Copied")).to_be_visible()
    assert bench.page.evaluate("() => navigator.clipboard.readText()") == bench.page.url


@pytest.mark.parametrize("view", ["walk", "compare"])
def test_other_views_are_for_everybody_too(browser: Browser, small: httpx.Client, view: str) -> None:
    """In the dark, and on a telephone."""
    desk = Desk(browser, small, color_scheme="dark", viewport={"width": 360, "height": 800})
    desk.open(f"#sample=chelsea&m=grad-cam|saliency&view={view}")
    place = desk.page.locator(".station" if view == "walk" else ".two").first
    place.scroll_into_view_if_needed()  # a station asks once it is seen
    expect(place.locator("canvas").first).to_be_visible()
    assert desk.violations() == []
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= 360
    assert desk.complaints == []
    desk.context.close()


# Errors and keys


def test_what_goes_wrong_is_said_in_words(browser: Browser, server: httpx.Client) -> None:
    desk = Desk(browser, server)  # whose console says of each refusal that there was one
    desk.open()
    desk.take()
    desk.drop(b"this is a text", "cat.jpg", "image/jpeg")
    alert = desk.page.get_by_role("alert")
    expect(alert).to_contain_text("no picture that the server can read")
    desk.page.get_by_role("button", name="A cat").first.click()
    desk.done(1)
    desk.page.get_by_label("Explain the class").fill("tabbby")
    desk.page.keyboard.press("Enter")
    expect(alert).to_contain_text("tabby")  # which the server says was meant
    assert desk.violations() == []
    desk.context.set_offline(True)
    desk.page.get_by_role("button", name="Try again").click()
    expect(alert).to_contain_text("does not answer")
    desk.context.close()


def test_a_second_model_that_fails_says_why(bench: Desk, small: httpx.Client) -> None:
    """Whether it failed before, and is not offered, or after the page had asked who is there."""
    failed = small.get("/models/tiny-vgg").json() | {"status": "failed", "error": "no weights", "methods": None}
    bench.page.route("**/models/tiny-vgg", lambda route: route.fulfill(json=failed))
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.get_by_text("Beside a second one").click()
    bench.page.get_by_label("Second model").select_option("tiny-vgg")
    expect(bench.page.locator(".beside").get_by_role("alert")).to_contain_text("no weights")
    listed = small.get("/models").json()
    for one in listed["models"]:
        one["status"] = "failed" if one["name"] == "tiny-vgg" else one["status"]
    bench.page.route("**/models", lambda route: route.fulfill(json=listed))
    bench.page.goto("about:blank")
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.get_by_text("Beside a second one").click()
    for label in ("Model", "Second model"):
        names = bench.page.get_by_label(label, exact=True).locator("option:disabled")
        expect(names).to_have_text(["tiny-vgg"])


def test_what_cannot_be_drawn_leaves_the_rest_of_the_page(bench: Desk) -> None:
    def spoil(route: Any) -> None:
        route.fulfill(body=re.sub(r'"min":[^,]+', '"min":null', (got := route.fetch()).text()), response=got)

    bench.page.route("**/explain/saliency", spoil)
    bench.open("#sample=chelsea&m=grad-cam|saliency")
    expect(bench.page.get_by_role("alert")).to_contain_text("Something went wrong")
    bench.done(1)
    expect(bench.card("Grad-CAM").locator("canvas").first).to_be_visible()
    bench.page.unroute("**/explain/saliency")
    bench.page.get_by_role("button", name="Add methods").click()  # what stays works
    expect(bench.page.locator("dialog")).to_be_visible()


def test_a_countdown_is_not_read_out_at_each_second(browser: Browser, small: httpx.Client) -> None:
    desk = Desk(browser, small)
    problem = {"type": "urn:heatlens:problem:overloaded", "title": "Busy", "status": 503, "detail": "busy"}
    told = {"content-type": "application/problem+json", "retry-after": "2"}
    desk.page.route("**/explain/**", lambda route: route.fulfill(status=503, json=problem, headers=told))
    desk.open("#sample=chelsea&m=grad-cam")
    expect(desk.page.get_by_role("button", name=re.compile(r"Try again in \d s"))).to_be_visible()
    said = desk.page.get_by_role("alert").inner_text()
    expect(desk.page.get_by_role("button", name="Try again", exact=True)).to_be_enabled()
    assert desk.page.get_by_role("alert").inner_text() == said
    assert desk.page.get_by_role("alert").get_by_role("button").count() == 0
    desk.context.close()


def test_a_slider_that_is_dragged_writes_the_address_once_it_rests(bench: Desk) -> None:
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.page.wait_for_url("**opacity=0.55*")
    bench.page.evaluate(
        """() => {
          window.written = 0;
          window.held = new Map();
          const { setTimeout, clearTimeout } = window;
          window.setTimeout = (act, ms, ...given) => {
            if (!(ms >= 200)) return setTimeout(act, ms, ...given);
            held.set(-1 - written, act);
            return -1 - written;
          };
          window.clearTimeout = (id) => held.delete(id) || clearTimeout(id);
          const { replaceState } = history;
          history.replaceState = (...what) => (window.written++, replaceState.apply(history, what));
        }"""
    )
    bench.page.get_by_label("Opacity").evaluate(
        """async (slider) => {
          const canvas = document.querySelector(".canvas canvas");
          for (const value of ["0.1", "0.2", "0.3", "0.4"]) {
            slider.value = value;
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            while (canvas.style.opacity !== value) await new Promise(requestAnimationFrame);
            for (let i = 0; i < 10; i++) await new Promise(requestAnimationFrame); // what follows a drawing
          }
        }"""
    )
    assert bench.page.evaluate("() => [window.written, held.size]") == [0, 1]
    bench.page.evaluate("() => held.forEach((act) => act())")
    assert bench.page.evaluate("() => window.written") == 1
    assert "opacity=0.4" in bench.page.url


def test_what_is_typed_stays_though_the_page_is_drawn_anew(bench: Desk) -> None:
    """As at each step of a method that takes long."""
    bench.open("#sample=chelsea&m=occlusion&view=compare")
    bench.page.get_by_label("Box:").press_sequentially("4, 5, 60")
    bench.page.get_by_label("Explain the class").press_sequentially("tabb")
    typed = bench.page.evaluate(
        """async () => {
          const draws = () => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)));
          const field = document.getElementById("class");
          document.getElementById("model").dispatchEvent(new Event("change", { bubbles: true })); // draws all anew
          await draws();
          return field.value;
        }"""
    )
    assert typed == "tabb"


def test_each_tab_is_a_session_of_its_own(browser: Browser, small: httpx.Client) -> None:
    """By which replicas of a server may keep its pictures together."""
    sessions = []
    for _ in range(2):
        desk = Desk(browser, small)
        desk.keep()
        desk.open("#sample=chelsea&m=grad-cam|saliency")
        desk.done(2)
        (session,) = {one["headers"]["x-session-id"] for one in desk.asked()}
        assert re.fullmatch("[0-9a-f]{16}", session)
        sessions.append(session)
        desk.context.close()
    assert sessions[0] != sessions[1]


@pytest.mark.parametrize("mib", [3, 40])
def test_a_picture_that_is_too_large_is_said(browser: Browser, chelsea: bytes, mib: int) -> None:
    """Also where the server has said so, and hung up, long before all of it was sent."""
    with serving(Settings(catalog=CATALOG, device="cpu", max_image_bytes=2**20)) as small:
        desk = Desk(browser, small)
        desk.open()
        expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
        desk.drop(chelsea, "cat.png", "image/png", padding=mib * 2**20)
        expect(desk.page.get_by_role("alert")).to_contain_text("larger than the server takes", timeout=PATIENCE_MS)
        desk.context.close()


def test_a_sample_that_does_not_come_is_said(browser: Browser, server: httpx.Client) -> None:
    desk = Desk(browser, server)
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    desk.context.set_offline(True)
    desk.page.get_by_role("button", name="A cat").click()
    expect(desk.page.get_by_role("alert")).to_contain_text("does not answer")
    desk.context.set_offline(False)
    desk.take()
    expect(desk.page.get_by_role("alert")).to_have_count(0)
    desk.context.close()


def test_a_picture_is_asked_about_before_it_is_decoded(desk: Desk, chelsea: bytes) -> None:
    """The first request does not wait for what the browser makes of the picture, nor for anything else."""
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    desk.page.evaluate(
        """() => {
          window.order = [];
          const { fetch } = window;
          window.fetch = (...what) => (window.order.push("asked"), fetch(...what));
          for (const event of ["onload", "onerror"]) {
            const { set } = Object.getOwnPropertyDescriptor(HTMLElement.prototype, event);
            Object.defineProperty(HTMLImageElement.prototype, event, {
              set(act) { set.call(this, (...what) => (window.order.push("looked at"), act(...what))); },
            });
          }
        }"""
    )
    desk.drop(chelsea, "cat.png", "image/png")
    desk.done(1)
    desk.page.wait_for_function("() => window.order.length > 1")
    assert desk.page.evaluate("() => window.order") == ["asked", "looked at"]
    assert desk.page.locator(".canvas").first.evaluate("(one) => one.style.aspectRatio") == "451 / 300"


def test_a_server_with_keys_is_opened_by_one(browser: Browser) -> None:
    with serving(Settings(catalog=CATALOG, device="cpu", api_keys=("open-sesame",))) as locked:
        desk = Desk(browser, locked)
        desk.open()
        expect(desk.page.get_by_role("heading", name="This server asks for a key")).to_be_visible()
        assert desk.violations() == []
        for key, said in (("sesame", "does not know that key"), ("open-sesame", "Drop a picture here")):
            desk.page.get_by_label("Key").fill(key)
            desk.page.keyboard.press("Enter")
            expect(desk.page.get_by_text(said)).to_be_visible()
        desk.take()
        desk.done(1)
        desk.page.reload()
        desk.done(1)
        desk.context.close()


def test_scripts_that_somebody_slips_in_do_not_run(browser: Browser, server: httpx.Client) -> None:
    desk = Desk(browser, server)
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    desk.page.evaluate("() => document.body.append(Object.assign(document.createElement('script'), {text: 'hit = 1'}))")
    assert desk.page.evaluate("() => typeof hit") == "undefined"
    assert "Content Security Policy" in desk.complaints[0]
    desk.context.close()


# For everybody


def test_it_is_used_by_keys_alone(desk: Desk) -> None:
    desk.open()
    page = desk.page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "A cat":
            break
    page.keyboard.press("Enter")
    desk.done(1)
    page.get_by_role("button", name="Add methods").focus()
    page.keyboard.press("Enter")
    page.keyboard.type("saliency")
    expect(page.locator(".method")).not_to_have_count(49)
    page.keyboard.press("Escape")  # clears the search
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator(".hidden[role=status]")).to_have_text("Grad-CAM is done")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_screen(browser: Browser, server: httpx.Client, scheme: str) -> None:
    desk = Desk(browser, server, color_scheme=scheme)
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    assert desk.violations() == []
    desk.take()
    desk.add("DeconvNet", "Feature maps", "Occlusion")
    desk.done(4)
    desk.card("Occlusion").get_by_role("button", name="Parameters").click()
    desk.card("Grad-CAM").get_by_role("button", name="Take along").click()
    assert desk.violations() == []
    desk.page.get_by_role("button", name="Add methods").click()
    assert desk.violations() == []
    desk.context.close()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_head_is_one_line_and_its_views_another_on_a_telephone(
    browser: Browser, small: httpx.Client, language: str
) -> None:
    desk = Desk(browser, small, viewport={"width": 360, "height": 800})
    desk.open(f"#sample=chelsea&m=grad-cam&lang={language}")
    desk.done(1)
    parts = desk.page.locator(".head > :is(a, button, select)")
    places = parts.evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect()).map((one) => (one.top + one.bottom) / 2)"
    )
    assert len(places) == 4
    assert max(places) - min(places) < 8
    desk.context.close()


@pytest.mark.parametrize("width", [360, 768])
def test_narrow_screens_need_no_sideways_scrolling(browser: Browser, server: httpx.Client, width: int) -> None:
    desk = Desk(browser, server, viewport={"width": width, "height": 800})
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_be_visible()
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= width
    desk.take()
    desk.card("Grad-CAM").get_by_role("button", name="Parameters").click()
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") <= width
    desk.context.close()


def test_a_link_keeps_the_state(desk: Desk) -> None:
    desk.open()
    desk.take()
    desk.page.locator(".predictions button").nth(1).click()
    desk.page.get_by_label("Opacity").fill("0.8")
    desk.add("Saliency")
    desk.done(2)
    state = desk.page.evaluate("() => location.hash")
    desk.page.goto("about:blank")
    desk.open(state)
    desk.done(2)
    expect(desk.page.get_by_label("Opacity")).to_have_value("0.8")
    expect(desk.page.locator(".usage").first).to_contain_text("Egyptian cat")
    assert desk.page.evaluate("() => location.hash") == state


def test_a_link_keeps_what_stands_beside_and_opens_on_the_page_itself(desk: Desk) -> None:
    desk.open()
    desk.beside()
    desk.page.get_by_role("button", name="Which to believe").click()
    desk.page.get_by_label("Box:").fill("40, 50, 200, 210")
    desk.page.keyboard.press("Enter")
    expect(desk.page.locator(".drawn .box")).to_be_visible()
    desk.page.wait_for_url("**box=*")
    state = desk.page.evaluate("() => location.hash")
    desk.page.goto("about:blank")
    desk.open("#sample=coffee")
    desk.done(1)
    desk.page.evaluate("(state) => { location.hash = state; }", state)
    expect(desk.page.get_by_label("Box:")).to_have_value("40, 50, 200, 210")
    expect(desk.page.locator(".beside .predictions li")).to_have_count(5)
    desk.page.get_by_role("button", name="Explain", exact=True).click()
    desk.done(2)
    assert desk.page.evaluate("() => location.hash") == state.replace("&view=compare", "")


def test_files_and_commands_to_take_along(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    desk.open()
    desk.take()
    desk.page.get_by_label("Opacity").fill("0.9")
    desk.page.get_by_label("Heat").select_option("viridis")
    card = desk.card("Grad-CAM")
    card.get_by_role("button", name="Take along").click()
    for name, kind in (("PNG", ".png"), ("NumPy", ".npy"), ("JSON", ".json")):
        with desk.page.expect_download() as download:
            card.get_by_role("button", name=name).click()
        assert download.value.suggested_filename == f"grad-cam{'' if kind == '.json' else '-tiger-cat'}{kind}"
        download.value.save_as(tmp_path / f"map{kind}")
    assert np.load(tmp_path / "map.npy").shape == (7, 7)
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == (256, 256)
    (tmp_path / "chelsea.jpg").write_bytes(files()["photographs/chelsea.jpg"].content)
    card.get_by_text("curl", exact=True).click()
    subprocess.run(card.locator("pre").first.inner_text(), shell=True, check=True, cwd=tmp_path)
    drawn = np.asarray(Image.open(tmp_path / "map.png").convert("RGB"), np.int16)

    def assert_as_drawn() -> None:
        found = np.asarray(Image.open(tmp_path / "grad-cam.png").convert("RGB"), np.int16)
        assert found.shape == drawn.shape
        assert np.abs(found - drawn).mean() < 2  # the browser places and mixes by its own rules, to a part of a pixel
        (tmp_path / "grad-cam.png").unlink()

    assert_as_drawn()
    card.get_by_text("Python", exact=True).click()
    program = card.locator("pre").nth(1).inner_text().replace("heatlens_client", "service.client")
    program = program.replace('"chelsea.jpg"', repr(str(tmp_path / "chelsea.jpg")))
    found: dict[str, Any] = {}
    exec(program, found)
    for one in found.values():
        if isinstance(one, Client):
            one.close()
    np.testing.assert_allclose(found["heat"], np.load(tmp_path / "map.npy"), rtol=1e-4, atol=1e-5)
    assert_as_drawn()


def test_a_command_stands_for_a_picture_of_any_name(bench: Desk, chelsea: bytes, tmp_path: Path) -> None:
    name = """it's "a\\b" $HOME.png"""
    (tmp_path / name).write_bytes(chelsea)
    bench.open("#m=feature-maps")
    bench.page.locator(".choose input[type=file]").set_input_files(tmp_path / name)
    bench.done(1)
    card = bench.card("Feature maps")
    card.get_by_role("button", name="Take along").click()
    card.get_by_text("curl", exact=True).click()
    subprocess.run(card.locator("pre").first.inner_text(), shell=True, check=True, cwd=tmp_path)
    with Image.open(tmp_path / "feature-maps.png") as image:
        assert image.format == "PNG"


def test_a_link_that_somebody_has_spoilt_opens_with_what_it_does_not_spoil(bench: Desk) -> None:
    bench.open("#sample=chelsea&colours=constructor|toString&opacity=abc&box=,,,&target=5&against=[]&m=grad-cam~[1]")
    bench.done(1)
    expect(bench.page.get_by_label("Opacity")).to_have_value("0.55")
    expect(bench.page.get_by_label("Heat")).to_have_value(wire.SEQUENTIAL)
    state = bench.page.evaluate("() => location.hash")
    assert f"colours={wire.SEQUENTIAL}" in state
    assert not re.search("box=|target=|against=|%5B1%5D", state)


def test_a_link_keeps_that_no_method_is_chosen(bench: Desk) -> None:
    bench.open("#sample=chelsea&m=grad-cam")
    bench.done(1)
    bench.card("Grad-CAM").get_by_role("button", name="Remove").click()
    expect(bench.page.get_by_text("No method is chosen")).to_be_visible()
    state = bench.page.evaluate("() => location.hash")
    bench.page.goto("about:blank")
    bench.open(state)
    expect(bench.page.get_by_text("No method is chosen")).to_be_visible()
    expect(bench.page.get_by_role("article")).to_have_count(0)


def test_boxes_that_enclose_nothing_are_none(bench: Desk) -> None:
    texts = ["1,2,3,4", "1 2;3  4", "3,2,1,4", "1,2,3", "1,2,3,Infinity", "a,b,c,d", ",,,", ""]
    found = module(bench, "share", "({ box }, texts) => texts.map(box)", texts)
    assert found == [[1, 2, 3, 4], [1, 2, 3, 4], *[None] * 6]


def test_maps_are_smaller_where_they_have_fewer_places(bench: Desk) -> None:
    """Also of a network that holds its channels last: a layer's shape is given as of any other."""
    layers = [{"shape": [96, 8, 4], "layout": layout} for layout in ("chw", "hwc", "tokens")]
    assert module(bench, "walk", "({ places }, layers) => layers.map(places)", layers) == [32, 32, 32]


def test_it_speaks_the_readers_language(browser: Browser, server: httpx.Client) -> None:
    desk = Desk(browser, server, locale="zh-CN")
    desk.open()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("看看视觉网络在看哪里")
    assert desk.page.evaluate("() => document.documentElement.lang") == "zh-Hans"
    desk.page.get_by_role("button", name="English").click()
    expect(desk.page.get_by_role("heading", level=1)).to_have_text("See what a vision network looks at")
    desk.context.close()


# Walking, believing, and tasks that ask for more than a class


def test_a_walk_through_the_network(desk: Desk) -> None:
    desk.open("#sample=chelsea&view=walk")
    first = desk.page.locator(".station").first
    expect(first).to_contain_text(re.compile("32 channels of 112 . 112"))
    expect(first).to_contain_text("of its values are zero")
    asked = len(desk.requests)
    last = desk.page.locator(".station").last  # asks once it is seen
    last.scroll_into_view_if_needed()
    last.locator("button.tile").first.click()
    expect(last.locator(".patches canvas")).to_have_count(3, timeout=PATIENCE_MS)
    paths = [url.removeprefix(desk.base) for url in desk.requests[asked:] if url.startswith("http")]
    assert {"/explain/deconvnet", "/explain/filters", "/explain/feature-maps"} == set(paths)
    assert desk.violations() == []


def test_two_maps_on_each_other(desk: Desk) -> None:
    desk.open("#sample=chelsea&m=grad-cam|saliency&view=compare")
    wiped = desk.page.locator(".two")
    seen = {wiped.screenshot()}
    desk.page.get_by_label("How much of the left map shows").fill("0.9")
    seen.add(wiped.screenshot())
    desk.page.get_by_label("Left less right").check()
    seen.add(wiped.screenshot())
    assert len(seen) == 3
    assert desk.violations() == []


def _compared() -> wire.CompareResponse:
    """Return a comparison of two methods, of which the second has failed, as a server would send it."""
    target: dict[str, Any] = {"index": 282, "label": "tiger cat", "score": 0.4}
    curve = {"shares": [0, 0.5, 1], "deletion": [0.4, 0.1, 0], "insertion": [0, 0.3, 0.4]}
    curve |= {"deletion_area": 0.15, "insertion_area": 0.25}
    shown = {"name": "grad-cam", "kind": "positive", "interpolation": "bilinear", "target": target, "layer": "head"}
    shown |= dict.fromkeys(("channel", "channels", "heatmap", "overlay", "array", "patch")) | {"min": 0, "max": 1}
    shown |= {"flat": False, "all_negative": False}
    shown["faithfulness"] = {"gain": {"blur": 3.25, "mean": 0.5, "reason": None}}
    shown["metrics"] = {"curves": {"blur": curve, "mean": None}, "sparsity": 0.6}  # of one way to hide alone
    problem = {"type": "urn:heatlens:problem:not-applicable", "title": "No", "status": 422, "detail": "does not fit"}
    problem |= {"instance": "/compare", "error": "No"}
    passes = {"verdict": "passes", "reason": None}
    cost = {"forwards": 1, "backwards": 1, "seconds": 0.1}
    first = {"method": "grad-cam", "params": {}, "maps": [shown], "details": {}, "sanity": passes, "cost": cost}
    second = {"method": "occlusion", "params": {}, "maps": [], "details": {}, "sanity": passes, "cost": None}
    usage = dict.fromkeys(("forwards", "backwards", "rows_avoided"), 1)
    usage |= dict.fromkeys(("batch_rows_mean", "queue_ms", "device_ms", "render_ms", "arithmetic_share"), 1.0)
    return wire.CompareResponse.model_validate(
        {
            "id": "1",
            "model": {"name": "efficientnet-lite0", "version": "sha256:" + "0" * 64, "task": "classification"},
            "predictions": [],
            "methods": [first | {"problem": None}, second | {"problem": problem}],
            "controls": [
                {"target": target, "random": {"blur": [0, 0.1], "mean": None}, "bell": {"blur": 1.5, "mean": 2.5}}
            ],
            "agreement": [{"target": target, "methods": [0, 0], "spearman": [[1, -0.5], [-0.5, 1]]}],
            "image": {"width": 256, "height": 256, "box": [16, 16, 240, 240], "warnings": []},
            "usage": usage
            | {
                "dtype": "float32",
                "runtime": "torch",
                "exact": True,
                "error_bound": None,
                "incremental": False,
                "cache": "none",
            },
        }
    )


def test_two_targets_and_two_maps_are_told_apart(desk: Desk) -> None:
    """Each map has its row and its line, each target its spot and its agreement; further numbers come where asked."""
    answer = _compared()
    first, second = answer.methods
    shown, cat = first.maps[0], answer.controls[0].target
    dog = cat.model_copy(update={"index": 7, "label": "dog"})
    metrics = wire.Metrics(road=0.25, completeness=wire.Completeness(promises="x", change=4, residual=0.5))
    metrics = metrics.model_copy(update={"curves": shown.metrics.curves, "reasons": {"stability": "too slow"}})
    first = first.model_copy(update={"maps": [shown, shown.model_copy(update={"target": dog, "metrics": metrics})]})
    more = {
        "methods": [first, second],
        "controls": [one.model_copy(update={"target": two}) for one in answer.controls for two in (cat, dog)],
    }
    more["agreement"] = [one.model_copy(update={"target": two}) for one in answer.agreement for two in (cat, dog)]
    body = f"event: result\ndata: {answer.model_copy(update=more).model_dump_json()}\n\n"
    asked: list[Any] = []

    desk.keep()
    desk.page.route("**/compare", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    desk.open("#sample=chelsea&m=grad-cam|occlusion&view=compare")
    for name in ("ROAD", "Adds up"):
        desk.page.get_by_label(name).check()
    desk.page.get_by_role("button", name="Put them to the test").click()
    rows = desk.page.get_by_role("region", name="Numbers").get_by_role("row")
    expect(rows).to_have_count(1 + 3 + 2)
    expect(rows.nth(1)).to_contain_text("Grad-CAM: tiger cat")
    expect(rows.nth(2)).to_contain_text(re.compile(r"Grad-CAM: dog.*0\.25.*0\.5 / 4"))
    expect(rows.nth(2).locator("[title='too slow']")).not_to_have_text(NUMBER)
    expect(desk.page.get_by_role("heading", name="How alike")).to_have_count(2)
    (asked,) = [one for one in desk.asked() if one["path"] == "/compare"]
    assert asked["metrics"] == ["curves", "sparsity", "road", "completeness"]
    expect(desk.page.locator("polyline")).to_have_count(2 * 2)
    looks = desk.page.locator(".inks path").evaluate_all(
        "(all) => all.map((one) => getComputedStyle(one).strokeDasharray)"
    )
    assert len(set(looks)) == 2  # for those who do not tell colours apart


def test_numbers_and_curves_say_which_map_to_believe(desk: Desk) -> None:
    """The server's answer is made up here, in its own types: how long the true one takes is no matter of the page."""
    answer = _compared().model_dump_json()
    events = f"event: progress\ndata: {{}}\n\n: a comment\n\nevent: result\ndata: {answer}\n\n"
    desk.page.route("**/compare", lambda route: route.fulfill(body=events, content_type="text/event-stream"))
    desk.open("#sample=chelsea&m=grad-cam|occlusion&view=compare")
    desk.page.get_by_role("button", name="Put them to the test").click()
    rows = desk.page.get_by_role("region", name="Numbers").get_by_role("row")
    expect(rows.nth(1)).to_contain_text(re.compile(r"Grad-CAM.*\+3\.3.*\+0\.5.*0\.6.*passes.*0\.1 s, 3 passes"))
    grey = rows.nth(1).locator("td.chance")  # 0.5 is chance, and takes the worth of 3.25
    expect(grey).to_have_text(["+3.3", "+0.5"])
    expect(rows.nth(2)).to_contain_text("does not fit")
    expect(rows.nth(3)).to_contain_text("+1.5")
    expect(desk.page.locator("polyline")).to_have_count(2)
    expect(desk.page.get_by_role("region", name="How alike")).to_contain_text("-0.5")
    assert desk.violations() == []


def test_tasks_have_their_boxes_regions_and_references(browser: Browser) -> None:
    with serving(Settings(catalog=Path(__file__).with_name("tasks.toml"), device="cpu")) as server:
        desk = Desk(browser, server)
        desk.open("#m=occlusion")
        page = desk.page
        page.get_by_role("button", name="A cat").first.click()
        desk.done(1)
        expect(page.locator(".found")).to_have_count(3)
        page.locator(".predictions button").nth(1).click()
        expect(page.locator(".found.chosen")).to_have_count(1)
        desk.done(1)
        place = page.locator(".drawn").bounding_box()
        assert place is not None
        page.mouse.move(place["x"] + 40, place["y"] + 40)
        page.mouse.down()
        page.mouse.move(place["x"] + 150, place["y"] + 160, steps=4)
        page.mouse.up()
        desk.done(1)
        assert '"box":[' in page.evaluate("() => decodeURIComponent(location.hash)")
        assert desk.violations() == []
        page.get_by_label("Model", exact=True).select_option("segmenter")
        desk.done(1)
        page.locator(".predictions button").first.click()
        desk.done(1)
        expect(page.get_by_label("Explain the class")).not_to_have_value("")
        expect(page.get_by_label("rather than")).to_have_count(0)  # a segmenter would not tell it from another
        page.get_by_label("Box:").fill("30, 30, 200, 220")
        page.keyboard.press("Enter")
        desk.done(1)
        assert '"region":[30,30,200,220]' in page.evaluate("() => decodeURIComponent(location.hash)")
        white = {"name": "mask.png", "mimeType": "image/png", "buffer": encoded(Image.new("L", (256, 256), 255))}
        with page.expect_response("**/explain/occlusion") as asked:
            page.locator(".references input[type=file]").set_input_files(white)  # type: ignore[arg-type]
        assert asked.value.ok
        desk.done(1)
        card = desk.card("Occlusion")
        card.get_by_role("button", name="Take along").click()
        expect(card.locator("pre").first).to_contain_text('pictures=@"mask.png"')
        expect(card.locator("pre").first).to_contain_text('"region":{"mask":0}')
        page.get_by_label("Model", exact=True).select_option("embedder")
        expect(page.get_by_text("This model tells how alike pictures are", exact=False)).to_be_visible()
        page.locator(".references").get_by_role("button", name="An astronaut").click()
        desk.done(1)
        assert desk.violations() == []
        assert desk.complaints == []
        desk.context.close()


def test_a_comparison_by_the_server_itself(browser: Browser) -> None:
    with serving(Settings(catalog=CATALOG, device="cpu")) as server:
        desk = Desk(browser, server)
        desk.open("#sample=chelsea&m=grad-cam|saliency&view=compare")
        desk.page.get_by_label("Box:").fill("40, 40, 200, 200")
        desk.page.keyboard.press("Enter")
        desk.page.get_by_role("button", name="Put them to the test").click()
        rows = desk.page.get_by_role("region", name="Numbers").get_by_role("row")
        expect(rows).to_have_count(4, timeout=PATIENCE_MS)  # the head, two methods, and a spot in the middle
        expect(rows.nth(1)).to_contain_text(re.compile(r"% / \d+"))  # of the map, and of the picture
        assert desk.complaints == []
        desk.context.close()
