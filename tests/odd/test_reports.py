"""Public reports of what went wrong in other tools, and which test here does the same.

Each line is one report, or several of a kind: `odd:NAME` is a network of `cases.py`, anything else a test of this
suite, as `FILE::NAME`. What has no test elsewhere has one below.
"""

import ast
import base64
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from service.models.catalogue import read_catalog
from tests.conftest import encoded
from tests.odd.cases import CASES
from tests.odd.conftest import Odd, served

pytestmark = pytest.mark.filterwarnings("ignore")
TESTS = Path(__file__).parent.parent
HERE = "odd/test_reports.py"

REPORTS: dict[str, tuple[str, ...]] = {
    # Pictures
    "yolov5 405: phone photos lie on their side": (
        "images/test_decoding.py::test_exif_orientation",
        "api/test_bad_input.py::test_odd_picture_answers_as_the_plain_one",
    ),
    "Pillow 1138: a phone's JPEG is called MPO": (f"{HERE}::test_mpo",),
    "TorchServe 65: grey JPEG": (f"{HERE}::test_grey_jpeg", "odd:grey_told"),
    "Triton 4257: transparent PNG": ("images/test_decoding.py::test_transparency_lies_on_white",),
    "PyTorch 20524: PNG of 16 bits": (
        "images/test_decoding.py::test_16_bits_are_scaled_and_not_clipped",
        "images/test_transparency.py::test_16_bits_a_channel_of_every_kind",
    ),
    "pytorch-grad-cam 469: X-ray of 12 bits": (
        "images/test_colours.py::test_window_over_12_bits",
        "images/test_colours.py::test_dark_16_bits_are_warned_of",
        "models/test_inputs.py::test_pictures_of_12_bits_through_a_window",
    ),
    "okuna-api 414: HEIC": (
        "images/containers/test_heic.py::test_a_picture_is_shown",
        "images/test_decoding.py::test_heic_without_its_decoder_is_named",
    ),
    "DeepLIIF 48: TIFF, AVIF": ("images/test_decoding.py::test_tiff", "images/test_decoding.py::test_formats"),
    "Pillow 2038: JPEG without its end": ("images/test_decoding.py::test_jpeg_without_its_end",),
    "Pillow 8594: BMP of the clipboard": (
        "images/test_decoding.py::test_bmp_whose_alpha_is_zero_throughout_is_opaque",
    ),
    "infinity 609: one pixel": ("api/test_bad_input.py::test_odd_picture_answers_as_the_plain_one",),
    "infinity 242: broken files fail alone": ("api/test_bad_input.py::test_bad_picture",),
    "baserow 3013: pixels beyond the limit": (
        "images/test_decoding.py::test_pixels_are_counted_before_any_is_decoded",
        "images/test_decoding.py::test_a_raised_limit_holds_beyond_pillows_own",
    ),
    "fastai 1803: the map in its place": ("rendering/test_drawing.py::test_heat_lies_where_the_model_saw_it",),
    "places365 26: the whole picture squashed or padded": (
        "images/test_transform.py::test_squash_is_torchvisions",
        "images/test_transform.py::test_pad_shows_all_of_a_picture_in_its_shape",
        "models/test_inputs.py::test_an_edge_is_seen_where_the_whole_picture_is",
    ),
    "SVG, PDF, DICOM, HTML named .jpg": ("images/test_decoding.py::test_what_bytes_look_like_is_named",),
    "progressive, coarse colours, profiles, trailing bytes, CMYK, animated": (
        "images/test_decoding.py::test_how_a_picture_is_stored_does_not_show",
        "images/test_decoding.py::test_cmyk_colours",
        "api/test_bad_input.py::test_odd_picture_answers_as_the_plain_one",
    ),
    # Networks
    "torchvision 5376: two models from one checkpoint": (
        "odd/test_serving.py::test_two_models_of_the_same_weights_never_answer_for_each_other",
    ),
    "pytorch-grad-cam 325: one sigmoid output": ("odd:one", "odd:one_sigmoid", "odd:bright", "odd:one_measured"),
    "chexnet 22: several labels at once": ("odd:colours", "odd:multilabel_told", "odd:sigmoid"),
    "pytorch-grad-cam 511: no_grad, inference_mode, detach": (
        *("odd:no_grad", "odd:inferring", "odd:detached", "odd:data_taken", "odd:frozen_body"),
        "explainers/test_contract.py::test_a_layer_that_no_gradient_gets_to_is_refused_by_whoever_needs_one",
    ),
    "captum 226: frozen parameters": ("odd:frozen",),
    "torch-cam 186: not a number": (
        *("odd:nan", "odd:infinite", "odd:nan_for_some"),
        "odd/test_serving.py::test_no_finite_number_is_no_answer",
    ),
    "torch-cam 36: no division by zero of an empty map": (f"{HERE}::test_a_map_of_zeros_is_flat", "odd:dead_class"),
    "SimpleNet 2: dropout left on": ("odd:dropout", "odd:counts"),
    "IIC 49: statistics of the batch": (
        *("odd:batch_statistics", "odd:less_the_mean", "odd:decides", "odd:forgets"),
        "odd/test_serving.py::test_the_same_picture_beside_others_is_the_same",
    ),
    "PyTorch 102981: weight norm": (
        *("odd:weight_norm", "odd:weight_norm_new", "odd:spectral_norm", "odd:spectral_norm_new"),
        "odd/test_serving.py::test_less_precision_is_an_answer_near_the_full_one_or_a_refusal",
        "engine/network/test_variants.py::"
        "test_weights_that_are_computed_in_each_forward_and_tables_that_are_kept_are_no_hindrance",
    ),
    "torchvision 2421: checkpointed": ("odd:checkpointed", "odd:checkpointed_reentrant"),
    "deep-visualization-toolbox 52: grey and four channels": (
        *("odd:grey", "odd:grey_told", "odd:grey_by_its_mean", "odd:four", "odd:four_told", "odd:six"),
    ),
    "pytorch-grad-cam 481: logits, tuple, dict": (
        *("odd:a_dict", "odd:a_tuple", "odd:a_list", "odd:an_object", "odd:several", "odd:several_named"),
    ),
    "pytorch-grad-cam 84: vision transformers": (
        *("odd:class_token", "odd:channels_last", "odd:linear_attention"),
        "zoo/test_zoo.py::test_a_network_is_right_as_it_comes",
    ),
    "pytorch-grad-cam 476: segmentation": ("odd/test_serving.py::test_segmentations",),
    "pytorch-grad-cam 414: two inputs": ("odd:two",),
    "anomalib 2894: squeeze of a batch of one": ("odd:squeezes", "odd:squeezed_at_the_end"),
    "Detectron.pytorch 104: train() without return": ("odd:no_return",),
    "half, bfloat16, double": ("odd:half", "odd:bfloat16", "odd:double", "odd:casts"),
    "pytorch-grad-cam 258: TorchScript": (
        *("odd:scripted", "odd:traced", "odd:scripted_inside", "odd:exported", "odd:exported_for_two"),
        *("odd:source_script", "odd:source_export", "odd:source_export_of_two"),
        "models/sources/test_factory.py::test_what_pytorch_loads_a_network_with",
    ),
    "quantised, lazy": ("odd:quantised", "odd:static", "odd:lazy", "odd:meta"),
    "torch.compile in the factory": ("odd:compiled",),
    "a slow model beside others": (
        "engine/test_store.py::test_what_is_still_loading_says_so_and_those_before_it_serve",
        "engine/test_store.py::test_ready_models_answer_while_another_is_examined",
        "engine/test_store.py::test_one_that_takes_long_does_not_hold_up_the_rest",
    ),
    "pytorch-classification 35: DataParallel's prefix": ("odd:file_module", "odd:parallel"),
    "YOLOv3_PyTorch 4: the prefix on both sides": (
        *("odd:file_own_module", "odd:file_module_on_both_sides", "odd:file_averaged"),
    ),
    "PyTorch 8481: old batch norms": ("odd:file_old_batch_norms", "odd:file_without_buffers"),
    "torchvision 474, 3648: files as published": (
        "models/sources/test_torchvision.py::test_files_as_published",
        "models/sources/test_torchvision.py::test_files_without_auxiliary_classifiers_and_with_own_arguments",
    ),
    "nanoGPT 325: _orig_mod.": ("odd:file_orig_mod", "odd:file_module_orig_mod"),
    "lightning-hydra-template 447: model.": ("odd:file_lightning", "odd:file_lightning_of_its_own"),
    "ldcast 12: checkpoints in a dict": (
        *("odd:file_model_state_dict", "odd:file_net", "odd:file_params", "odd:file_ema"),
        *("odd:file_namespace", "odd:file_numpy"),
        "models/weights/test_reading.py::test_every_usual_wrapper",
    ),
    "pytorch-grad-cam 375: whole modules": ("odd:file_whole_module", "odd:file_whole_module_allowed"),
    "a pointer, a page, an archive": (
        *("odd:file_pointer", "odd:file_page", "odd:file_empty", "odd:file_rubbish", "odd:file_of_a_script"),
        "odd:file_safetensors_called_pth",
    ),
    "half-precision state dict": ("odd:file_half",),
    "timm and transformers as they come": (
        "models/sources/test_timm.py::test_input_is_timms",
        "models/sources/test_timm.py::test_mistakes",
        "models/sources/test_transformers.py::test_folder_as_it_comes",
    ),
    "torchvision 714: classes called by numbers": (
        "test_cli.py::test_a_target_is_json_or_a_label_or_an_index",
        "test_cli.py::test_digits_are_an_index_where_no_label_has_that_name",
    ),
    "labels of Windows and of TorchServe": ("models/test_labels.py::test_labels", "odd:too_few_labels"),
    "a catalogue with a byte-order mark": (f"{HERE}::test_a_catalogue_with_a_byte_order_mark",),
    "pytorch-grad-cam 319: one class's map, and the prediction with it": (
        "api/test_contract.py::test_several_targets_answer_in_order",
    ),
    "MONAI 3035: names of layers": (
        f"{HERE}::test_names_of_layers",
        "contract/test_facts.py::test_such_an_address_meets_the_layer_that_was_meant",
    ),
    "torch-cam 79: a batch in one request": ("api/bodies/test_body.py::test_multipart",),
    "torch-cam 72: ReLU in place": ("odd:plain", "odd:in_place", "odd:leaky"),
    # HTTP and operation
    "httpx 878: a refusal reaches whoever still sends": (
        "api/bodies/test_body.py::test_body_limit_is_found_before_the_body_ends",
        "api/bodies/test_body.py::test_a_refusal_reaches_who_is_still_sending",
        "api/test_middleware.py::test_whoever_sends_a_large_body_without_a_key_reads_why_it_is_refused",
    ),
    "uvicorn 2097: the connection stays": (
        f"{HERE}::test_a_connection_outlives_refusals",
        "api/bodies/test_body.py::test_a_client_goes_on_after_bodies_that_are_too_large",
    ),
    "uvicorn 2722: Upgrade, Expect, HTTP/1.0, chunked": (f"{HERE}::test_habits_of_clients",),
    "Pode 1604: JSON with a byte-order mark": (f"{HERE}::test_json_with_a_byte_order_mark",),
    "werkzeug 1175: file names": ("api/bodies/test_body.py::test_a_picture_is_a_file_however_its_part_is_headed",),
    "form-data 498: parts without a file name": (
        "api/bodies/test_body.py::test_a_picture_is_a_file_however_its_part_is_headed",
    ),
    "habits of other servers": (f"{HERE}::test_habits_of_other_servers_are_told_what_to_send",),
    "parameters in the address": (
        "api/test_queries.py::test_parameters_in_an_address_are_refused_where_nothing_reads_them",
    ),
    "origins that never match": ("api/test_origins.py::test_what_would_never_match_is_no_origin",),
    "a body that is compressed": ("api/bodies/test_body.py::test_a_body_in_another_coding_is_refused_by_name",),
    "base64 of every habit": ("images/test_sent.py::test_base64_of_every_habit",),
    "two targets and one file": ("test_cli.py::test_mistakes", f"{HERE}::test_two_targets_and_one_picture"),
    "TorchServe 934: a target's explanation": ("api/test_contract.py::test_several_targets_answer_in_order",),
    "Accept of browsers": ("api/test_formats.py::test_accepted",),
}


# Networks and files that were tried beside them, by what is odd in each.
TRIED: dict[str, tuple[str, ...]] = {
    # Answered falsely by whoever does not look
    "sigmoid, multi-label logits": ("odd:sigmoid", "odd:multilabel_told", "odd:colours", "odd:sigmoid_as_classes"),
    "softmax inside": ("odd:softmax", "odd:log_softmax"),
    "one logit, one sigmoid": ("odd:one", "odd:one_sigmoid", "odd:bright", "odd:one_as_classes"),
    "embedding": ("odd:embedding", "odd:embedding_told", "odd/test_serving.py::test_an_embedding_needs_other_pictures"),
    "the same weights and other code": (
        "odd:doubled",
        "odd/test_serving.py::test_two_models_of_the_same_weights_never_answer_for_each_other",
        "models/test_identity.py::test_what_changes_answers_changes_the_version",
    ),
    "dropout in forward, a counter in a buffer": ("odd:dropout", "odd:counts"),
    "batch statistics, eval() that forgets, less the mean of the batch": (
        *("odd:batch_statistics", "odd:forgets", "odd:less_the_mean", "odd:decides"),
        "odd/test_serving.py::test_the_same_picture_beside_others_is_the_same",
    ),
    "no_grad, detach": ("odd:no_grad", "odd:detached"),
    "not a number, for all or for some": ("odd:nan", "odd:nan_for_some"),
    "averaged weights beside raw ones": (
        "odd:file_ema",
        "models/weights/test_reading.py::test_every_average_comes_first_and_is_said",
    ),
    "prints in forward": ("odd:talks", "test_cli.py::test_what_a_network_prints_is_no_output"),
    "argmax": ("odd:argmax",),
    # Refused with a bare exception by whoever does not look
    "1 or 4 channels, 5 axes, channels last": ("odd:grey", "odd:four", "odd:six", "odd:film", "odd:last"),
    "two inputs": ("odd:two", "models/sources/test_files.py::test_two_inputs_are_refused"),
    "a fixed batch": ("odd:one_at_a_time", "odd:exported_for_two", "odd:source_export_of_two"),
    "squeeze()": ("odd:squeezes", "odd:squeezed_at_the_end"),
    "another input size": ("odd:sized", "odd:sized_told"),
    "in place on the input": ("odd:writes",),
    "half, bfloat16 and double weights": ("odd:half", "odd:bfloat16", "odd:double"),
    "TorchScript: scripted, traced, loaded": (
        *("odd:scripted", "odd:traced", "odd:source_script"),
        "models/sources/test_factory.py::test_what_pytorch_loads_a_network_with",
    ),
    "torch.export": (
        *("odd:exported", "odd:source_export"),
        "models/sources/test_factory.py::test_what_pytorch_loads_a_network_with",
    ),
    "int8, dynamic and static": ("odd:quantised", "odd:static"),
    "extra state, lazy layers, meta": ("odd:extra", "odd:lazy", "odd:meta"),
    "calls that depend on the number of rows": ("odd:rowwise", "odd:one_at_a_time"),
    "a factory or a forward that raises": ("odd:raises", "odd:raises_in_forward"),
    # To be loaded
    "wrappers of weights": ("odd:file_model_state_dict", "odd:file_net", "odd:file_namespace", "odd:file_numpy"),
    "prefixes of weights": (
        *("odd:file_orig_mod", "odd:file_lightning", "odd:file_module", "odd:file_module_on_both_sides"),
    ),
    "tuple, dict, list, (N,), (N, K, 1, 1)": (
        *("odd:a_tuple", "odd:a_dict", "odd:a_list", "odd:no_axis", "odd:two_axes_more"),
    ),
    "a whole pickled module": ("odd:file_whole_module", "odd:file_whole_module_allowed"),
    "grey with one mean": ("odd:grey_by_its_mean",),
    "detections and segmentations": (
        "odd/test_serving.py::test_detections",
        "odd/test_serving.py::test_segmentations",
    ),
    # Rightly refused
    "another number of classes or labels": ("odd:file_of_more_classes", "odd:too_few_labels", "odd:too_many_labels"),
    "files without buffers": ("odd:file_without_buffers",),
    # Right, and to stay so
    "own derivatives, in place": ("odd:custom_function", "odd:in_place"),
    "DataParallel, LeakyReLU, generalised means": ("odd:parallel", "odd:leaky", "odd:gem"),
    "weight and spectral norm": (
        "odd:weight_norm",
        "odd:weight_norm_new",
        "odd:spectral_norm",
        "odd:spectral_norm_new",
    ),
    "caches, traced by FX, ensembles": ("odd:caches", "odd:symbolic", "odd:ensemble"),
    "32 pixels, a rectangle, 0..255 by its deviation": ("odd:plain", "odd:wide", "odd:in_255_by_std"),
    "a file in half precision, Lightning's own class": ("odd:file_half", "odd:file_lightning_of_its_own"),
    "compiled": ("odd:compiled", "engine/test_store.py::test_nothing_is_compiled_while_requests_wait_for_the_device"),
    "bf16 where weights are computed or kept": (
        "odd/test_serving.py::test_less_precision_is_an_answer_near_the_full_one_or_a_refusal",
        "tuning/test_tuner.py::test_a_network_that_takes_one_precision_only_is_measured_in_it",
    ),
    "one wrong entry of a catalogue": (
        "odd/test_serving.py::test_one_mistaken_entry_leaves_the_others_serving",
        "models/test_inputs.py::test_one_bad_entry_leaves_the_others_serving",
    ),
}


@pytest.mark.parametrize(("report", "places"), [*REPORTS.items(), *TRIED.items()])
def test_each_report_has_a_test(report: str, places: tuple[str, ...]) -> None:
    for place in places:
        if place.startswith("odd:"):
            assert place.removeprefix("odd:") in CASES
            continue
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, place


# What has no test elsewhere


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    """Serve the two networks that are asked about here: all of them take long to load."""
    with served(tmp_path_factory.mktemp("two"), ("plain", "dead_class")) as two:
        yield two


PHOTO = Image.effect_noise((60, 40), 64).convert("RGB")
JPEG = encoded(PHOTO, "JPEG")


def numbers(odd: Odd, image: bytes) -> list[float]:
    """Return what is predicted."""
    answer = odd.post("/predict", "plain", image)
    assert answer.status_code == 200, answer.text
    return [p["probability"] for p in answer.json()["predictions"]]


def test_mpo(odd: Odd) -> None:
    two = encoded(PHOTO, "MPO", save_all=True, append_images=[Image.new("RGB", PHOTO.size, "blue")])
    assert Image.open(io.BytesIO(two)).format == "MPO"
    assert numbers(odd, two) == pytest.approx(numbers(odd, JPEG), abs=1e-3)


def test_grey_jpeg(odd: Odd) -> None:
    grey = PHOTO.convert("L")
    assert numbers(odd, encoded(grey, "JPEG", quality=100)) == pytest.approx(
        numbers(odd, encoded(grey.convert("RGB"))), abs=1e-3
    )


@pytest.mark.parametrize("method", ["grad-cam", "saliency", "occlusion"])
def test_a_map_of_zeros_is_flat(odd: Odd, method: str) -> None:
    params = {"score": "logit"} if method != "grad-cam" else {}
    answer = odd.post(f"/explain/{method}", "dead_class", JPEG, targets=[0], params=params)
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()["maps"]
    assert found["flat"]
    assert found["min"] == found["max"]
    assert found["overlay"]


def test_a_catalogue_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_bytes(b"\xef\xbb\xbf[models.m]\r\nfactory = 'tests.odd.nets:plain'\r\ninput_size = 32\r\n")
    assert list(read_catalog(path)[0]) == ["m"]


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        ("model.conv2", "did you mean 'conv2'? GET /models/plain/layers lists all"),
        ("module.bn2", "did you mean 'bn2'?"),
        ("model.conv2[0]", "did you mean 'conv2'?"),
        ("nothing like it", "is not in plain; GET /models/plain/layers lists all"),
    ],
)
def test_names_of_layers(odd: Odd, layer: str, says: str) -> None:
    answer = odd.post("/explain/grad-cam", "plain", JPEG, params={"layer": layer})
    assert answer.status_code == 422
    assert says in answer.json()["detail"]


def test_two_targets_and_one_picture(odd: Odd) -> None:
    asked = {"image": base64.b64encode(JPEG).decode(), "targets": [0, 1]}
    for accept in ("image/png", "application/x-npy", "image/webp"):
        answer = odd.client.post("/explain/grad-cam", json=asked, headers={"accept": accept})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["pointer"] == "/targets"
        assert "application/zip" in answer.json()["detail"]
        one = odd.client.post("/explain/grad-cam", json=asked | {"targets": [1]}, headers={"accept": accept})
        assert one.headers["content-type"] == accept
    for accept in ("application/json", "application/zip"):
        assert odd.client.post("/explain/grad-cam", json=asked, headers={"accept": accept}).status_code == 200


def raw(odd: Odd, *requests: bytes) -> list[int]:
    """Send requests over one connection; return the statuses of their answers."""
    place = urlsplit(str(odd.client.base_url))
    statuses = []
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        file = connection.makefile("rb")
        for request in requests:
            connection.sendall(request)
            while True:
                status = int(file.readline().split()[1])
                length, line = 0, file.readline()
                while line.strip():
                    name, _, value = line.decode("latin-1").partition(":")
                    length = int(value) if name.lower() == "content-length" else length
                    line = file.readline()
                file.read(length)
                if status != 100:
                    statuses.append(status)
                    break
    return statuses


def post(body: bytes, *headers: str, path: str = "/predict", version: str = "1.1", length: bool = True) -> bytes:
    """Return a request."""
    lines = [f"POST {path} HTTP/{version}", "host: x", "content-type: application/json", *headers]
    lines += [f"content-length: {len(body)}"] if length else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


BODY = json.dumps({"image": base64.b64encode(JPEG).decode()}).encode()


def test_a_connection_outlives_refusals(odd: Odd) -> None:
    wrong, good = post(b'{"image": "*"}'), post(BODY)
    unknown, heavy = post(BODY, path="/explain/nothing"), post(json.dumps({"image": "A" * 2_000_000}).encode())
    assert raw(odd, good, wrong, good, unknown, good, heavy, good) == [200, 422, 200, 404, 200, 415, 200]


def test_habits_of_clients(odd: Odd) -> None:
    chunk = f"{len(BODY):x}\r\n".encode() + BODY + b"\r\n0\r\n\r\n"
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
    for request in (
        post(BODY, *upgrade),
        post(BODY, "expect: 100-continue"),
        post(BODY, version="1.0"),
        post(b"", "transfer-encoding: chunked", length=False) + chunk,
    ):
        assert raw(odd, request) == [200]


def test_json_with_a_byte_order_mark(odd: Odd) -> None:
    kind = {"content-type": "application/json"}
    answer = odd.client.post("/predict", content=b"\xef\xbb\xbf" + BODY, headers=kind)
    assert answer.status_code == 200 or (answer.status_code == 400 and re.search("byte", answer.text, re.I))


@pytest.mark.parametrize(
    ("path", "sent", "status", "says"),
    [
        ("/predictions/plain", {"content": JPEG}, 404, "see /docs"),
        ("/predict", {"content": JPEG, "headers": {"content-type": "image/jpeg"}}, 415, "send application/json"),
        ("/predict", {"json": {"instances": [{"image": {"b64": "AAAA"}}]}}, 422, "unknown field"),
        ("/predict", {"json": {"inputs": "AAAA"}}, 422, "unknown field"),
        ("/predict", {"files": {"data": JPEG}}, 400, "unknown part 'data'"),
        ("/predict", {"files": {"file": JPEG}}, 400, "the parts are 'image'"),
    ],
)
def test_habits_of_other_servers_are_told_what_to_send(odd: Odd, path, sent, status: int, says: str) -> None:
    answer: httpx.Response = odd.client.post(path, **sent)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
