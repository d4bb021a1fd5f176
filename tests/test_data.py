"""Laws of slimgraph.data: what goes in comes out, in one slice, and bad input is told by name and place."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from slimgraph.data import DictDataset, Normalizer, read_csv, read_mat, read_npz, windows
from slimgraph.errors import DataError, MissingKeyError, OptionError, ShapeError, UnknownOptionError


def series(n: int = 10) -> dict[str, torch.Tensor]:
    return {"x": torch.arange(2.0 * n).reshape(n, 2), "u": torch.arange(n), "w": torch.rand(n, 3, 4)}


# ---- DictDataset


def test_a_dataset_gives_back_what_it_was_given():
    given = series()
    data = DictDataset(given, name="dev", index=True)
    assert len(data) == 10 and data.name == "dev"
    assert list(data.datadict) == ["x", "u", "w", "index"]
    for i in (0, 7, -1):
        assert all(torch.equal(data[i][key], value[i]) for key, value in given.items())
    assert data[4]["index"] == 4
    assert "index" not in given


def test_arrays_and_lists_become_tensors_and_keep_their_dtype():
    readonly = np.arange(3.0)
    readonly.flags.writeable = False
    data = DictDataset({"a": np.ones((3, 2), dtype=np.float32), "b": [1, 2, 3], "c": readonly})
    assert data.datadict["a"].dtype == torch.float32
    assert data.datadict["b"].dtype == torch.int64
    assert data.datadict["c"].dtype == torch.float64


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_equal_slices(named: bool, workers: int):
    data = DictDataset(series(), name="val")
    collate = data.collate_fn if named else None
    batches = list(DataLoader(data, batch_size=4, collate_fn=collate, num_workers=workers))
    assert [len(batch["x"]) for batch in batches] == [4, 4, 2]
    for i, batch in enumerate(batches):
        assert type(batch) is dict
        assert batch.pop("name", None) == ("val" if named else None)
        for key, value in data.datadict.items():
            assert torch.equal(batch[key], value[4 * i : 4 * i + 4])


def test_a_batch_is_one_slice_and_no_loop_over_samples(monkeypatch: pytest.MonkeyPatch):
    data = DictDataset({"x": torch.rand(1000, 2)})
    asked = []
    monkeypatch.setattr(DictDataset, "__getitem__", lambda self, i: asked.append(i))
    assert len(next(iter(DataLoader(data, batch_size=1000)))["x"]) == 1000
    assert asked == []


def test_samples_taken_one_by_one_collate_to_the_same_batch():
    data = DictDataset(series())
    one_by_one = data.collate_fn([data[i] for i in range(4)])
    at_once = data.collate_fn(data.__getitems__([0, 1, 2, 3]))
    assert one_by_one.keys() == at_once.keys()
    assert all(torch.equal(one_by_one[key], at_once[key]) for key in series())


def test_the_rows_of_a_batch_are_samples():
    data = DictDataset(series())
    rows = data.__getitems__([3, 5])
    assert len(rows) == 2
    assert [int(sample["u"]) for sample in rows] == [3, 5]


def test_a_subset_is_a_dataset_too():
    data = Subset(DictDataset(series()), [1, 3, 5, 7])
    assert torch.equal(next(iter(DataLoader(data, batch_size=3)))["u"], torch.tensor([1, 3, 5]))


def test_a_dataset_pickles_and_shows_itself():
    data = pickle.loads(pickle.dumps(DictDataset(series())))
    assert repr(data) == "DictDataset('train', 10 samples: x (2), u (), w (3, 4))"
    assert torch.equal(data.datadict["u"], torch.arange(10))


def test_unequal_lengths_are_named():
    with pytest.raises(DataError, match=r"'x' holds 5 samples, 'u' 4"):
        DictDataset({"x": torch.zeros(5, 2), "u": torch.zeros(4)})


@pytest.mark.parametrize(
    ("shape", "at", "place"),
    [
        ((4,), (2,), "row 2"),
        ((4, 3), (1, 2), "row 1, column 2"),
        ((4, 5, 3), (3, 4, 0), "row 3, step 4, column 0"),
        ((4, 2, 2, 2), (1, 0, 1, 0), "row 1, axis 1 0, axis 2 1, column 0"),
    ],
)
@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "an infinite value")])
def test_a_value_that_is_no_number_is_named_with_its_place(shape, at, place, value, kind):
    x = torch.zeros(shape)
    x[at] = value
    with pytest.raises(DataError, match=rf"'train': 'T_living' holds {kind} in {place}$"):
        DictDataset({"u": torch.zeros(4), "T_living": x})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DictDataset({}), "holds no key"),
        (lambda: DictDataset({"x": 3.0}), "'x' is a single number"),
        (lambda: DictDataset({"x": "text"}), "'x' cannot be made a tensor from str"),
        (lambda: DictDataset({"index": [1, 2]}, index=True), "already holds the key 'index'"),
    ],
)
def test_bad_data_are_refused(make, message: str):
    with pytest.raises(DataError, match=message):
        make()


def test_a_mistyped_option_is_told():
    with pytest.raises(UnknownOptionError, match="DictDataset has no option 'indx'. Did you mean 'index'"):
        DictDataset({"x": [1.0]}, indx=True)


# ---- windows


@given(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_windows_are_the_slices_of_every_series(batch: int, steps: int, nsteps: int, stride: int):
    x = torch.arange(batch * steps * 2.0).reshape(batch, steps, 2)
    if nsteps > steps:
        with pytest.raises(ShapeError):
            windows(x, nsteps, stride)
        return
    naive = [x[b, t : t + nsteps] for b in range(batch) for t in range(0, steps - nsteps + 1, stride)]
    assert torch.equal(windows(x, nsteps, stride), torch.stack(naive))
    single = torch.stack(naive[: len(naive) // batch])
    assert torch.equal(windows({"x": x[0].numpy()}, nsteps, stride)["x"], single)
    assert torch.equal(windows(x[0, :, 1], nsteps, stride), single[..., 1:])


def test_windows_of_several_keys_stay_aligned():
    t = torch.arange(8.0)
    cut = windows({"t": t, "x": torch.stack([t, t * t], dim=-1)}, 3, 2)
    assert torch.equal(cut["x"][..., 0], cut["t"][..., 0])
    assert torch.equal(DictDataset(cut).__getitems__([2, 0]).whole["t"][:, 0, 0], torch.tensor([4.0, 0.0]))


def test_bad_windows_are_told():
    with pytest.raises(ShapeError, match=r"windows of 9 steps do not fit into 'u', which has 8 steps"):
        windows({"u": torch.zeros(8, 1)}, 9)
    with pytest.raises(DataError, match="'u' has 8 steps, 'y' 7"):
        windows({"u": torch.zeros(8, 1), "y": torch.zeros(7)}, 3)
    with pytest.raises(OptionError, match="nsteps >= 1, got 0"):
        windows(torch.zeros(8), 0)
    with pytest.raises(OptionError, match="stride >= 1, got -1"):
        windows(torch.zeros(8), 2, -1)
    with pytest.raises(ShapeError, match=r"'series' is \(1, 2, 3, 4\)"):
        windows(torch.zeros(1, 2, 3, 4), 2)


# ---- Normalizer

ODD_KEYS = ["x", "a.b", "", "weight", 'x"y', "größe", "forward"]


def odd_data() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: 5 + 3 * torch.randn(20, 4, 2, generator=generator) for key in ODD_KEYS}


def test_normalised_data_have_mean_0_and_std_1_and_come_back():
    data = odd_data()
    scale = Normalizer.fit(data)
    normal = scale({**data, "other": torch.ones(1), "name": "train"})
    for key in ODD_KEYS:
        flat = normal[key].reshape(-1, 2)
        torch.testing.assert_close(flat.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(flat.std(0, correction=0), torch.ones(2))
    assert normal["name"] == "train" and torch.equal(normal["other"], torch.ones(1))
    back = scale.inverse(normal)
    for key in ODD_KEYS:
        torch.testing.assert_close(back[key], data[key], rtol=1e-6, atol=1e-6)


def test_a_constant_column_has_std_1():
    column = torch.full((1000, 1), 0.1)
    scale = Normalizer.fit({"x": torch.cat([column, torch.rand(1000, 1)], 1), "zero": torch.zeros(4)})
    assert scale.get_buffer("std_0")[0] == 1
    assert scale.get_buffer("std_1") == 1
    torch.testing.assert_close(scale({"x": torch.full((1, 2), 0.1)})["x"][0, 0], torch.tensor(0.0))


def test_the_statistics_are_saved_and_loaded(tmp_path):
    data = odd_data()
    scale = Normalizer.fit(data)
    torch.save(scale.state_dict(), tmp_path / "scale.pt")
    fresh = Normalizer(dict.fromkeys(ODD_KEYS, 2))
    assert torch.equal(fresh(data)["x"], data["x"])
    fresh.load_state_dict(torch.load(tmp_path / "scale.pt", weights_only=True))
    assert all(torch.equal(fresh(data)[key], scale(data)[key]) for key in ODD_KEYS)


def test_dtype_follows_the_data():
    scale = Normalizer.fit({"x": torch.rand(5, 2, dtype=torch.float64), "n": torch.arange(4)})
    assert scale.get_buffer("mean_0").dtype == torch.float64
    assert scale({"x": torch.rand(3, 2)})["x"].dtype == torch.float32
    torch.testing.assert_close(scale({"n": torch.arange(4)})["n"].mean(), torch.tensor(0.0))


def test_shared_statistics_are_those_of_the_other_key():
    data = {"x": torch.rand(9, 5, 2), "x0": torch.rand(9, 1, 2)}
    scale = Normalizer.fit(data, shared={"x0": "x", "x_hat": "x"})
    assert torch.equal(scale({"x": data["x0"]})["x"], scale(data)["x0"])
    assert torch.equal(scale.inverse({"x": data["x0"]})["x"], scale.inverse({"x_hat": data["x0"]})["x_hat"])


def test_bad_keys_of_a_normalizer_are_told():
    with pytest.raises(MissingKeyError, match=r"no 'T_livin', the data holds \['T_living'\]. Did you mean 'T_living'"):
        Normalizer.fit({"T_living": torch.rand(3, 1)}, ["T_livin"])
    with pytest.raises(MissingKeyError, match=r"'x0' shares the statistics of 'xx', which is not fitted.*\['x'\]"):
        Normalizer.fit({"x": torch.rand(3, 1)}, shared={"x0": "xx"})
    with pytest.raises(ShapeError, match=r"'x' was fitted with 2 features, got \(4, 3\)"):
        Normalizer.fit({"x": torch.rand(3, 2)})({"x": torch.rand(4, 3)})


# ---- files


def written(folder, text: str):
    path = folder / "house.csv"
    path.write_text(text)
    return path


def test_a_csv_file_comes_back_by_columns(tmp_path):
    path = written(tmp_path, 'time_s,"T, room",Q\n0,20.5,1e3\n 1 ,21,-2\n')
    data = read_csv(path, dtype=torch.float64)
    assert {key: value.tolist() for key, value in data.items()} == {
        "time_s": [0.0, 1.0], "T, room": [20.5, 21.0], "Q": [1000.0, -2.0]
    }  # fmt: skip
    assert list(read_csv(path, ["Q"])) == ["Q"]
    assert read_csv(path)["Q"].dtype == torch.get_default_dtype()


def test_columns_that_nobody_asked_for_may_hold_anything(tmp_path):
    path = written(tmp_path, '"u","y","Ts",\n1,2,4,\n3,4,,\n\n')
    assert read_csv(path, ["u", "y"])["y"].tolist() == [2.0, 4.0]
    with pytest.raises(DataError, match=r"house.csv: column 'Ts' holds an empty cell in row 1 \(line 3\)"):
        read_csv(path)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("", r"column 'T' holds an empty cell in row 1 \(line 3\)"),
        ("warm", r"column 'T' holds 'warm', which is no finite number, in row 1 \(line 3\)"),
        ("nan", r"column 'T' holds 'nan', which is no finite number, in row 1 \(line 3\)"),
        ("inf", r"column 'T' holds 'inf', which is no finite number, in row 1 \(line 3\)"),
    ],
)
def test_a_bad_cell_is_named(tmp_path, cell: str, message: str):
    with pytest.raises(DataError, match=message):
        read_csv(written(tmp_path, f"t,T\n0,1\n1,{cell}\n"))


def test_a_missing_file_and_a_wrong_column_are_told(tmp_path):
    path = written(tmp_path, "time_s,T_living\n0,1\n")
    with pytest.raises(DataError, match=r"no file .*houes.csv. Did you mean 'house.csv'"):
        read_csv(tmp_path / "houes.csv")
    with pytest.raises(
        DataError, match=r"no column 'T_livin', it has \['time_s', 'T_living'\]. Did you mean 'T_living'"
    ):
        read_csv(path, ["T_livin"])


@pytest.mark.parametrize("kind", ["npz", "mat"])
def test_archives_come_back_as_tensors(tmp_path, kind: str):
    arrays = {"x": np.arange(6.0).reshape(3, 2), "u": np.ones((3, 1))}
    path = tmp_path / f"data.{kind}"
    if kind == "npz":
        np.savez(path, **arrays)
    else:
        pytest.importorskip("scipy.io").savemat(path, arrays)
    read = read_npz if kind == "npz" else read_mat
    assert {key: value.tolist() for key, value in read(path).items()} == {k: v.tolist() for k, v in arrays.items()}
    assert list(read(path, ["u"])) == ["u"]
    with pytest.raises(DataError, match=r"holds no 'xx', it holds \['x', 'u'\]. Did you mean 'x'"):
        read(path, ["xx"])


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "is empty"), ("a,b\n", "holds no row below its header"), ("a,a\n1,2\n", "has 2 columns called 'a'")],
)
def test_a_file_that_would_lose_data_is_refused(tmp_path, text: str, words: str):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_csv(tmp_path / "x.csv")


def test_blank_lines_before_the_header_and_one_name_are_understood(tmp_path):
    (tmp_path / "x.csv").write_text("\n\nab,b\n1,2\n")
    assert read_csv(tmp_path / "x.csv", "ab")["ab"].tolist() == [1.0]


def test_data_leave_their_graph_behind():
    assert not DictDataset({"x": torch.ones(3, 2, requires_grad=True) * 2}).datadict["x"].requires_grad


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_normalizer_refuses_statistics_that_would_be_no_numbers(wrong: float):
    with pytest.raises(DataError, match=r"'x' of shape \(2, 3, 1\) holds NaN or infinity; fit to what counts"):
        Normalizer.fit({"x": torch.tensor([[0.0, 1.0, wrong], [2.0, wrong, wrong]])[..., None]})


def test_what_counts_of_ragged_series_can_be_fitted_alone():
    x, mask = torch.tensor([[1.0, 3.0], [5.0, float("nan")]])[..., None], torch.tensor([[True, True], [True, False]])
    assert torch.equal(Normalizer.fit({"x": x[mask]}).get_buffer("mean_0"), torch.tensor([3.0]))
