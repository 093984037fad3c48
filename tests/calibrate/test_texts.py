"""Texts become tokens, and image processors' files become preprocessing, as they lie beside a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from lwgraph import ir
from lwgraph.calibrate import open_data
from lwgraph.errors import DataError, UsageError

tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "long", "short"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder: model.onnx and tokenizer.json."""
    reader = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    reader.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    reader.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    reader.save(str(tmp_path / "tokenizer.json"))
    save(tmp_path, "N,T")
    return tmp_path


def save(folder: Path, shape: str, more: str = "") -> Path:
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[{shape}] input_ids, int64[{shape}] attention_mask, int64[{shape}] token_type_ids{more})
        => (float[{shape}] y) {{
            s = Add (input_ids, attention_mask) t = Add (s, token_type_ids) y = Cast <to=1> (t) }}"""
    onnx.save(onnx.parser.parse_model(text), folder / "model.onnx")
    return folder / "model.onnx"


def opened(folder: Path, data: Path, **options):
    return open_data(str(data), ir.load(folder / "model.onnx"), **options)


def test_lines_are_samples_each_of_its_own_length(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("a b c\n\n  long  \nunknown a\n")
    reader = opened(folder, tmp_path / "data.txt")
    assert (reader.count, reader.labels) == (3, None)
    ids = [feed["input_ids"].tolist() for feed in reader]
    assert ids == [[[2, 4, 5, 6, 3]], [[2, 7, 3]], [[2, 1, 4, 3]]]
    assert all(feed["attention_mask"].all() and not feed["token_type_ids"].any() for feed in reader)


def test_json_lines_give_pairs_and_labels(folder: Path, tmp_path: Path) -> None:
    rows = [
        {"sentence1": "a", "sentence2": "b c", "label": 1},
        {"text": "short", "label": 0},
        {"content": "c", "label": 2},
    ]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    reader = opened(folder, tmp_path / "d.jsonl")
    first = next(iter(reader))
    assert first["input_ids"].tolist() == [[2, 4, 3, 5, 6, 3]]
    assert first["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 1]]
    assert reader.labels is not None and reader.labels.tolist() == [1, 0, 2]


def test_a_fixed_length_is_filled_with_a_mask_that_says_so(folder: Path, tmp_path: Path) -> None:
    save(folder, "1,5")
    (tmp_path / "d.txt").write_text("a\nlong long long long long long\n")
    feeds = list(opened(folder, tmp_path / "d.txt"))
    assert feeds[0]["input_ids"].tolist() == [[2, 4, 3, 0, 0]]
    assert feeds[0]["attention_mask"].tolist() == [[1, 1, 1, 0, 0]]
    assert feeds[1]["input_ids"].tolist() == [[2, 7, 7, 7, 3]]


def test_what_the_tokenizer_was_made_for_limits_the_length(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 6}')
    (tmp_path / "d.txt").write_text("a " * 50)
    assert next(iter(opened(folder, tmp_path / "d.txt")))["input_ids"].shape == (1, 6)
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1e30}')
    (tmp_path / "d.txt").write_text("a " * 600)
    assert next(iter(opened(folder, tmp_path / "d.txt")))["input_ids"].shape == (1, 512)


def test_a_folder_of_texts_has_classes_by_subfolders(folder: Path, tmp_path: Path) -> None:
    for group, text in (("neg", "a b"), ("pos", "c")):
        (tmp_path / "texts" / group).mkdir(parents=True)
        (tmp_path / "texts" / group / "1.txt").write_text(text)
    reader = opened(folder, tmp_path / "texts")
    assert reader.classes == ["neg", "pos"] and reader.labels is not None and reader.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.txt", "\n\n", "has no texts"),
        ("d.jsonl", "{", "line 1 is not JSON"),
        ("d.jsonl", '{"body": "a"}', "no text under one of the keys text, sentence1"),
        ("d.jsonl", "3", "neither a text nor an object"),
        ("d.csv", "a", "neither a folder nor .npz, .npy, .txt or .jsonl"),
    ],
)
def test_what_is_no_text_is_told(folder: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        opened(folder, tmp_path / name)


def test_a_missing_or_broken_tokenizer_is_told(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "d.txt").write_text("a")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer"):
        opened(folder, tmp_path / "d.txt")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"need a tokenizer\.json beside the model; there is none in"):
        opened(folder, tmp_path / "d.txt")


def test_an_input_of_no_tokens_is_told(folder: Path, tmp_path: Path) -> None:
    save(folder, "N,T", ", float[N,3,8,8] picture")
    (tmp_path / "d.txt").write_text("a")
    with pytest.raises(DataError, match=r"input 'picture' .* takes no tokens"):
        opened(folder, tmp_path / "d.txt")


def test_preprocess_auto_reads_the_processor_beside_the_model(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Relu (x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    config = {
        "do_resize": True, "size": {"shortest_edge": 10}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 8, "width": 8}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25],
    }  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 12), (255, 0, 0)).save(tmp_path / "images" / "a.png")
    (feed,) = open_data(str(tmp_path / "images"), ir.load(tmp_path / "model.onnx"), preprocess="auto")
    assert np.allclose(feed["x"][0, :, 0, 0], [2, -2, -2])
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config | {"resample": 9}))
    with pytest.raises(UsageError, match="has resample 9; allowed: 0, 1, 2, 3"):
        open_data(str(tmp_path / "images"), ir.load(tmp_path / "model.onnx"), preprocess="auto")
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"reads a preprocessor_config\.json beside the model; there is none in"):
        open_data(str(tmp_path / "images"), ir.load(tmp_path / "model.onnx"), preprocess="auto")
