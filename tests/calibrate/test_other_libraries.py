"""Data as other libraries hold them: loaders, pairs of arrays, tables, map-style data sets, tensors, pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lwgraph.calibrate.readers import open_data
from lwgraph.calibrate.signature import Input
from lwgraph.errors import DataError, UsageError

X = np.arange(24, dtype=np.float32).reshape(6, 4)
Y = np.array([0, 1, 2, 0, 1, 2])
VECTOR = {"x": Input("x", np.dtype(np.float32), ("n", 4))}
TWO = VECTOR | {"mask": Input("mask", np.dtype(np.int64), ("n", 4))}
IMAGE = {"pixels": Input("pixels", np.dtype(np.float32), ("n", 3, 8, 8))}


class Loader:
    """Batches of two, as torch's DataLoader gives them."""

    batch_size, dataset = 2, X

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Tensor:
    """A tensor that lies elsewhere and wants a gradient: NumPy cannot read it."""

    def __init__(self, array):
        self.array = array

    def __array__(self, *_, **__):
        raise RuntimeError("on another device")

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


class Table:
    """Rows by column name, as of the package datasets."""

    features = None

    def __init__(self, rows):
        self.rows, self.column_names = rows, list(rows[0])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]

    def __iter__(self):
        return iter(self.rows)


class MapStyle:
    """A torch Dataset: samples by number, and nothing else."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def slices():
    return [slice(i, i + 2) for i in (0, 2, 4)]


LOADERS = {
    "tensors": ([Tensor(X[s]) for s in slices()], False),
    "lists of a tensor": ([[X[s]] for s in slices()], False),
    "inputs and labels": ([(X[s], Y[s]) for s in slices()], True),
    "lists of both": ([[Tensor(X[s]), Tensor(Y[s])] for s in slices()], True),
    "dictionaries": ([{"x": X[s]} for s in slices()], False),
    "dictionaries with labels": ([{"x": X[s], "labels": Y[s]} for s in slices()], True),
    "dictionaries of another name": ([{"image": Tensor(X[s]), "target": Y[s]} for s in slices()], True),
    "columns of labels": ([(X[s], Y[s][:, None]) for s in slices()], True),
    "a dictionary and labels": ([({"x": X[s]}, Y[s].tolist()) for s in slices()], True),
}


@pytest.mark.parametrize("name", LOADERS)
def test_batches_of_a_loader_become_samples(name):
    batches, labelled = LOADERS[name]
    reader = open_data(Loader(batches), VECTOR)
    assert [feed["x"].shape for feed in reader] == [(1, 4)] * 6  # the loader's batch is no property of the samples
    assert np.array_equal(np.concatenate([feed["x"] for feed in reader]), X)
    assert (reader.labels is None) != labelled
    assert not labelled or (reader.labels.tolist() == Y.tolist() and reader.labels.dtype.kind == "i")


def test_batches_for_two_inputs_with_and_without_labels():
    mask = np.ones((6, 4), np.int64)
    for batches, labels in (
        ([(X[s], mask[s]) for s in slices()], None),
        ([(X[s], mask[s], Y[s]) for s in slices()], Y),
        ([((X[s], mask[s]), Y[s]) for s in slices()], Y),
    ):
        reader = open_data(Loader(batches), TWO)
        assert next(iter(reader))["mask"].dtype == np.int64
        assert (reader.labels is None) if labels is None else np.array_equal(reader.labels, labels)


def test_what_is_no_input_is_left_out_and_told():
    reader = open_data(Loader([{"x": X[:2], "idx": Y[:2], "text": ["a", "b"], "labels": Y[:2]}]), VECTOR)
    assert reader.count == 2 and any("idx, text" in note for note in reader.notes)
    reader = open_data(Loader([(X[:2], [{"boxes": 1}, {}])]), VECTOR)
    assert reader.labels is None and any("labels" in note for note in reader.notes)
    with pytest.raises(DataError, match="no input 'X'; did you mean 'x'"):
        open_data(Loader([{"X": X[:2], "z": X[:2]}]), VECTOR)
    with pytest.raises(DataError, match="batch 0 is a list of 3; a sample is a dict"):
        open_data(Loader([[X[:2], X[:2], X[:2]]]), VECTOR)


def test_the_limit_counts_samples_and_ends_the_loading():
    def endless():
        while True:
            yield X[:2]

    assert open_data(Loader(endless()), VECTOR, limit=5).count == 5


@pytest.mark.parametrize("y", [Y, Y.tolist(), Y[:, None], Tensor(Y)], ids=["array", "list", "column", "tensor"])
def test_a_pair_of_arrays(y):
    reader = open_data((X, y), VECTOR)
    assert reader.count == 6 and reader.labels.tolist() == Y.tolist()
    assert open_data(({"x": X}, y), VECTOR).labels.tolist() == Y.tolist()


def test_pairs_that_are_none():
    assert open_data((X, None), VECTOR).labels is None
    assert open_data((X, np.eye(3)[Y]), VECTOR).labels.shape == (6, 3)  # one for each class
    assert open_data((X[:1], X[1:2]), VECTOR).count == 2  # two samples
    assert open_data(((X, np.ones((6, 4), np.int64)), Y), TWO).labels.tolist() == Y.tolist()


def test_a_tensor_of_another_library():
    assert open_data(Tensor(X), VECTOR).count == 6


def test_a_table_of_numbers_and_one_of_pictures():
    rows = [{"x": x.tolist(), "label": int(y), "text": "?"} for x, y in zip(X, Y, strict=True)]
    reader = open_data(Table(rows), VECTOR, limit=3)
    assert reader.count == 3 and reader.labels.tolist() == [Y[0], Y[2], Y[5]]  # spread over all
    assert any("text" in note for note in reader.notes)
    pictures = [{"image": Image.new("RGB", (12, 10), (k, 0, 255)), "label": k} for k in range(3)]
    reader = open_data(Table(pictures), IMAGE)
    assert next(iter(reader))["pixels"].shape == (1, 3, 8, 8) and reader.labels.tolist() == [0, 1, 2]
    assert any("no preprocessing was given" in note for note in reader.notes)
    scaled = open_data(Table(pictures), IMAGE, preprocess="scale=2/255")
    assert next(iter(scaled))["pixels"].max() == pytest.approx(2.0)
    with pytest.raises(DataError, match=r"several tables: train, test; give one of them, such as --data\['train'\]"):
        open_data({"train": Table(rows), "test": Table(rows)}, VECTOR)


def test_a_map_style_data_set():
    reader = open_data(MapStyle([(x, y) for x, y in zip(X, Y, strict=True)]), VECTOR)
    assert reader.count == 6 and reader.labels.tolist() == Y.tolist()
    with pytest.raises(DataError, match="sample 1: 'x' is a Broken, which is no array: damaged"):
        open_data(MapStyle([X[0], Broken()]), VECTOR)


class Broken:
    """A tensor whose reading fails."""

    def __array__(self, *_, **__):
        raise ValueError("damaged")


def test_ragged_values_are_refused_by_name():
    with pytest.raises(DataError, match="sample 0: 'x' is a list of 2, which is no array"):
        open_data(Table([{"x": [[1.0, 2.0], [3.0]]}]), VECTOR)


def test_preprocessing_is_for_pictures():
    with pytest.raises(UsageError, match="gives finished samples"):
        open_data(Loader([X[:2]]), VECTOR, preprocess="scale=1/255")


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_loader_of_torch(shuffle):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    reader = open_data(torch.utils.data.DataLoader(data, batch_size=4, shuffle=shuffle), VECTOR)
    assert reader.count == 6 and sorted(reader.labels.tolist()) == sorted(Y.tolist())
    rows = {tuple(feed["x"][0]): label for feed, label in zip(reader, reader.labels, strict=True)}
    assert rows == {tuple(x): y for x, y in zip(X, Y, strict=True)}
    assert open_data(data, VECTOR).labels.tolist() == Y.tolist()
    half = torch.tensor(X, dtype=torch.bfloat16, requires_grad=True)
    assert np.array_equal(next(iter(open_data([half], VECTOR)))["x"], X)


def test_a_data_set_of_datasets():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": X.tolist(), "labels": Y.tolist(), "text": list("abcdef")})
    assert open_data(table, VECTOR).labels.tolist() == Y.tolist()
    assert open_data(table.with_format("numpy"), VECTOR).count == 6
    assert open_data(table.to_iterable_dataset(), VECTOR).labels.tolist() == Y.tolist()
    with pytest.raises(DataError, match="several tables"):
        open_data(datasets.DatasetDict({"train": table}), VECTOR)
