"""A few labels of the samples on which two models disagree: the file, and what it says."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from lwgraph import ir
from lwgraph.errors import DataError
from lwgraph.measure.evidence import Disagreements, Pairs
from lwgraph.measure.labels import COLUMNS, Labels, Row, classes_of, models_of, read_labels, told, write_labels

ROWS = (Row("000001.png", 3, 4, 3), Row("000007.png", 1, 0, 0), Row("000009.png", 2, 1, 2), Row("000012.png", 2, 0, 1))
FULL = Labels(ROWS, 500, "aa-bb")
PARTLY = Labels((*ROWS[:2], Row("000009.png", 2, 1), ROWS[3]), 500, "aa-bb")


def test_what_was_written_is_read(tmp_path: Path) -> None:
    for labels in (FULL, PARTLY):
        write_labels(tmp_path / "l.csv", labels)
        assert read_labels(tmp_path / "l.csv", "aa-bb", 5) == labels


def test_spreadsheets_may_rearrange_the_file(tmp_path: Path) -> None:
    text = "label;models;candidate;samples;original;file;remark\r\n3;aa-bb;4;500;3;000001.png;sure\r\n;;;;;;\r\n"
    (tmp_path / "l.csv").write_text("\ufeff" + text, encoding="utf8")
    assert read_labels(tmp_path / "l.csv", "aa-bb").rows == ROWS[:1]


def test_the_loss_is_that_of_all_samples() -> None:
    assert (FULL.lost, FULL.gained, FULL.unknown) == (2, 1, 0)
    found = FULL.evidence()
    assert found.estimate == pytest.approx(1 / 500) and found.bounds(0.05) == Pairs(2, 1, 500).bounds(0.05)
    assert told(FULL) == "the models disagree on 4 of 500 samples: 2 right before, 1 right now, 1 never right"


def test_what_is_not_labelled_counts_for_the_worse() -> None:
    found = PARTLY.evidence()
    low, high = found.bounds(0.05)
    assert low == Pairs(1, 2, 500).bounds(0.05)[0] and high == Pairs(2, 1, 500).bounds(0.05)[1]
    assert found.estimate == pytest.approx(0) and told(PARTLY).endswith(", 1 without a label")
    none = Labels(tuple(Row(row.file, row.original, row.candidate) for row in ROWS), 500, "aa-bb").evidence()
    assert none.estimate == 0 and none.bounds(0.05)[1] >= Disagreements(4, 500).bounds(0.045)[1] - 1e-12


HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no column 'file'"),
        ("file,original,candidate,label,samples\n", "has no column 'models'"),
        (HEAD, "has no rows"),
        (f"{HEAD}\na,3,4,x,500,aa-bb", "line 2: label is 'x'; allowed: a class, from 0 or nothing"),
        (f"{HEAD}\na,3,4,5,500,aa-bb", "line 2: label is 5; allowed: 0 to 4"),
        (f"{HEAD}\na,3,4,-1,500,aa-bb", "label is '-1'"),
        (f"{HEAD}\na,,4,1,500,aa-bb", "original is ''"),
        (f"{HEAD}\na,3,3,1,500,aa-bb", "both models say 3"),
        (f"{HEAD}\na,3,4,1,500,aa-cc", "was written for models aa-cc, these are aa-bb"),
        (f"{HEAD}\na,3,4,1,many,aa-bb", "samples is 'many'; allowed: a number of samples"),
        (f"{HEAD}\na,3,4,1,500,aa-bb\na,3,4,1,500,aa-bb", "line 3: file 'a' is there twice"),
        (f"{HEAD}\na,3,4,1,500,aa-bb\nb,3,4,1,501,aa-bb", "column 'samples' has 500 and 501"),
        (f"{HEAD}\na,3,4,1,1,aa-bb\nb,3,4,1,1,aa-bb", "has 2 rows of 1 samples"),
        (f"{HEAD}\na,3,4", "has no 'label'"),
    ],
)
def test_wrong_files_are_told_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "l.csv").write_text(text, encoding="utf8")
    with pytest.raises(DataError) as error:
        read_labels(tmp_path / "l.csv", "aa-bb", 5)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_bytes(b"\xff\xfe\x00")
    for path, words in ((tmp_path / "l.csv", "not UTF-8"), (tmp_path / "none.csv", "No such file")):
        with pytest.raises(DataError, match=words):
            read_labels(path, "aa-bb")


def test_a_pair_of_models_has_a_name() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (float[n,4] x) => (float[n,4] y) { y = %s(x) }'
    first, second = (ir.load(onnx.parser.parse_model(text % kind).SerializeToString()) for kind in ("Relu", "Identity"))
    assert len(models_of(first, second)) == 25 and models_of(first, second) != models_of(second, first)
    assert classes_of(first) == 4
