"""The twin house N2 as series and samples for examples/twin_house.py, and two baselines that any model must beat."""

from __future__ import annotations

from pathlib import Path

import torch

from slimgraph.data import Normalizer, read_csv, windows

PATH = Path(__file__).parent / "data" / "twin_house" / "n2_exp1_30min.csv"
DAY, PAST = 48, 24  # half hours a day, half hours from which the state at the start is told
TRAIN, VAL, TEST = range(24 * DAY), range(24 * DAY, 30 * DAY), range(30 * DAY, 41 * DAY)
ZONES = ["living", "corridor", "bath", "child", "kitchen", "doorway", "bedroom"]
HEATED = {"living": 0, "bath": 2, "child": 3, "kitchen": 4, "kitchen_duct": 4, "doorway": 5, "bedroom": 6}
BOUNDARY = ["T_attic", "T_cellar", "T_supply_air", "T_ambient"]
WEATHER = ["I_glob_hor", "I_diff_hor", "I_north", "I_east", "I_south", "I_west", "wind_speed"]
SHIFTS = (-6.0, -3.0, 0.0, 3.0, 6.0)  # K
INPUTS = len(HEATED) + len(BOUNDARY) + len(WEATHER)


def load(path=PATH):
    """The house as series `T (time, 7)` and `u (time, 18)` in comparable units, and the normaliser of temperatures."""
    groups = [f"T_{zone}" for zone in ZONES], [f"Q_{heater}" for heater in HEATED], BOUNDARY, WEATHER
    table = read_csv(path, [name for group in groups for name in group])
    T, Q, boundary, weather = (torch.stack([table[name] for name in group], dim=1) for group in groups)
    # One scale for every temperature: a house as warm as all that surrounds it must be at rest.
    scale = Normalizer.fit({"T": T[: len(TRAIN)].reshape(-1, 1)}, shared={"boundary": "T"})
    scaled = scale({"T": T, "boundary": boundary})
    weather = weather / torch.tensor([500.0] * 6 + [5.0])  # W/m2 and m/s
    return {"T": scaled["T"], "u": torch.cat([Q / 500.0, scaled["boundary"], weather], dim=1)}, scale


def samples(series, rows, nsteps=None, stride=12, shifts=(0.0,)):
    """`past (N, 24 * 25)`, `u (N, nsteps, 18)` and `T (N, nsteps + 1, 7)` from windows inside `rows`, one by default.

    Each `shift` gives the windows once more with every temperature in and around the house that much higher:
    conduction knows differences only, so the shifted house is the same house.
    """
    nsteps = nsteps or len(rows) - PAST
    cut = windows({key: value[rows.start : rows.stop] for key, value in series.items()}, PAST + nsteps, stride)
    shift = torch.tensor(shifts).repeat_interleave(len(cut["T"]))[:, None, None]
    T, u = (value.repeat(len(shifts), 1, 1) for value in (cut["T"], cut["u"]))
    heat, boundary, weather = u.split([len(HEATED), len(BOUNDARY), len(WEATHER)], dim=-1)
    T, u = T + shift, torch.cat([heat, boundary + shift, weather], dim=-1)
    return {"past": torch.cat([T, u], -1)[:, :PAST].flatten(1), "u": u[:, PAST:], "T": T[:, PAST - 1 :]}


def with_past(rows):
    """`rows` with the half hours before them from which the start is told."""
    return range(rows.start - PAST, rows.stop)


def sets(nsteps=48):
    """Training windows of `nsteps`, and one free run each for validation and test, for `slimgraph fit`."""
    series, scale = load()
    train = samples(series, TRAIN, nsteps, shifts=[shift / scale.std_0.item() for shift in SHIFTS])
    free = {"val": samples(series, with_past(VAL)), "test": samples(series, with_past(TEST))}
    return {"train": train, **free, "predict": free["test"]}


def hold_last(series, rows):
    """The temperatures before `rows`, held: `(time, 7)`."""
    return series["T"][rows.start - 1].expand(len(rows), -1)


def arx(series, rows, order):
    """Least-squares T[k] = sum_i T[k - i] A_i + u[k - i + 1] B_i + c, i = 1 ... order, run freely over `rows`."""

    def regressors(T, k):
        ones = T.new_ones(1)
        return torch.cat([T[k - order : k].flatten(), series["u"][k - order + 1 : k + 1].flatten(), ones])

    fitted = range(order, len(TRAIN))
    Z = torch.stack([regressors(series["T"], k) for k in fitted]).double()
    weights = torch.linalg.lstsq(Z, series["T"][order : len(TRAIN)].double()).solution.float()
    T = series["T"].clone()
    for k in rows:
        T[k] = regressors(T, k) @ weights
    return T[rows.start : rows.stop]


def best_arx(series, rows, orders=(1, 2, 3, 4, 6, 8, 12)):
    """The ARX model of the order that is best in a free run over days 24-30, run freely over `rows`, and that order."""
    measured = series["T"][VAL.start : VAL.stop]
    order = min(orders, key=lambda order: (arx(series, VAL, order) - measured).abs().mean().item())
    return arx(series, rows, order), order
