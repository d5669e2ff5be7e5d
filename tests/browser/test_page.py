"""The page as a person uses it."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytestmark = pytest.mark.browser

BROKEN = "this file is no image that the browser can read"


def maps(run):
    """Return the maps of saved numbers as arrays [height, width]."""
    numbers = run["numbers"]
    shape = numbers["height"], numbers["width"]
    names = ("predictive_entropy", "expected_entropy", "mutual_information")
    return {name: np.reshape(numbers[name], shape) for name in names}


def test_it_samples_as_soon_as_it_is_open(seen):
    assert seen["opened"] == "30 samples at rate 0.10."


def test_it_asks_nothing_of_other_machines(seen):
    assert seen["foreign"] == []
    assert seen["failed"] == []


def test_it_complains_of_nothing_but_the_broken_file(seen):
    assert [line for line in seen["messages"] if BROKEN not in line] == []


def test_maps_are_drawn_at_four_times_the_size(seen):
    for canvas in seen["painted"].values():
        assert (canvas["height"], canvas["width"]) == (4 * 96, 4 * 128)
        assert canvas["colours"] > 20


def test_numbers_shown_are_means_of_the_maps(seen):
    for run in seen["runs"]:
        for name, values in maps(run).items():
            assert float(run["shown"][name]) == pytest.approx(values.mean(), abs=6e-5)
        shares = 100 * np.array(run["numbers"]["shares"])
        for c, row in enumerate(run["shown"]["rows"]):
            mean, deviation = row.removeprefix(run["numbers"]["classes"][c]).split(" %")[:2]
            assert float(mean) == pytest.approx(shares[:, c].mean(), abs=6e-4)
            assert float(deviation) == pytest.approx(shares[:, c].std(ddof=1), abs=6e-4)


def test_numbers_saved_are_of_one_kind(seen):
    for run in (*seen["runs"], seen["partial"]):
        numbers, values = run["numbers"], maps(run)
        assert (numbers["image"], numbers["rate"]) == (seen["plan"]["image"], seen["plan"]["rate"])
        assert len(numbers["shares"]) == numbers["samples"]
        mean = np.reshape(numbers["mean"], (11, 96, 128))
        assert np.allclose(mean.sum(axis=0), 1, rtol=0, atol=1e-6)
        entropy = -(mean * np.log(np.where(mean > 0, mean, 1))).sum(axis=0)
        assert np.allclose(values["predictive_entropy"], entropy, rtol=0, atol=1e-6)
        information = np.maximum(entropy - values["expected_entropy"], 0)
        assert np.allclose(values["mutual_information"], information, rtol=0, atol=1e-6)
        assert values["predictive_entropy"].max() <= math.log(11) + 1e-6


def test_consecutive_runs_differ(seen):
    samples = [tuple(share) for run in seen["runs"] for share in run["numbers"]["shares"]]
    assert len(set(samples)) == len(samples) == seen["plan"]["runs"] * seen["plan"]["samples"]


def test_at_rate_zero_samples_agree(seen):
    assert maps(seen["still"])["mutual_information"].max() < 1e-6
    assert np.ptp(seen["still"]["numbers"]["shares"], axis=0).max() == 0


def test_a_run_can_be_stopped(seen):
    words = seen["stopped"].split()
    assert words[:2] == ["Stopped", "after"]
    assert 0 < int(words[2]) == seen["partial"]["numbers"]["samples"] < 100


def test_another_map_has_a_scale_of_its_own(seen):
    assert seen["scale"] == "0.6 nats or more"


def test_a_broken_file_is_said_and_earlier_results_are_kept(seen):
    assert seen["broken"] == BROKEN
    assert seen["kept"] == f"{seen['plan']['image']}-uncertainty.json"


def test_an_image_of_the_user_is_sampled(seen):
    assert seen["uploaded"]["file"] == "noise-uncertainty.json"
    assert seen["uploaded"]["numbers"]["samples"] == 4
    assert maps(seen["uploaded"])["mutual_information"].max() > 0.01


def test_a_pixel_is_read_by_pointer_and_by_touch(seen):
    for text in (seen["pixel"], seen["phone"]["pixel"]):
        assert text.startswith("Pixel (6")
        assert " ± " in text


def test_it_fits_a_phone(seen):
    assert seen["phone"]["content"] <= seen["phone"]["width"]
    assert seen["phone"]["smallest"] >= 32
