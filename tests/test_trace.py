"""Watching an optimisation does not change it, and what was seen is shown on a page."""

import json

import numpy as np
import pandas as pd
import pytest

from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.dip import DIP
from runners.report import traces
from runners.trace import chosen, watched, written
from tests.conftest import RowByRow, random_images

SEEDS = [3, 4]


@pytest.fixture
def ddip(small_trace) -> DDIP:
    return DDIP(trace=small_trace, steps=40, maps=20, warmup=0, similarity=-1.0, crossings=3)


@pytest.fixture
def records() -> pd.DataFrame:
    return pd.DataFrame({"id": ["t/0", "t/1"], "label": [1, 2]})


def test_the_result_is_the_purifiers_own_to_the_bit(ddip, network):
    images = random_images(2)
    _, final = watched(ddip, images, SEEDS, network)
    assert final.equal(ddip.purify(images, SEEDS, network))


def test_confidences_crossings_and_boundaries_are_written_down(ddip, records):
    victim = RowByRow()  # unlike the network of the fixture, it is undecided
    watch, final = watched(ddip, random_images(2), SEEDS, victim)
    facts, arrays = written(watch, final, records, victim, ddip)
    assert facts["steps"] == list(range(0, 40, 2))
    decided = arrays["confidence"].argmax(2)
    assert np.allclose(arrays["confidence"].sum(2), 1, atol=1e-5)
    for i in range(2):
        changes = [facts["steps"][k] for k in range(2, 20) if decided[i, k] != decided[i, k - 1]]
        assert facts["crossings"][i] == changes
        assert facts["used"][i] == changes[-3:]
        assert len(arrays[f"boundary{i}"]) == len(facts["on_boundary"][i]) == min(len(changes), 3)
    assert sum(map(len, facts["crossings"])) > 0, "nothing crossed: this tests nothing"
    assert len(facts["says"][0]) == len(facts["kept"]) == arrays["strip"].shape[1]


def test_any_purifier_that_fits_a_network_can_be_watched(small_trace, network, records):
    dip = DIP(trace=small_trace, steps=12)
    watch, final = watched(dip, random_images(2), SEEDS, network)
    facts, arrays = written(watch, final, records, network, dip)
    assert facts["crossings"] == [[], []]
    assert arrays["last"].shape == (2, 16, 16, 3)
    assert final.equal(dip.purify(random_images(2), SEEDS, network))


def test_a_traced_cell_is_shown_with_its_strip_and_plots(ddip, network, records, tmp_path):
    watch, final = watched(ddip, random_images(2), SEEDS, network)
    facts, arrays = written(watch, final, records, network, ddip)
    with (tmp_path / "1a2b3c4d.npz").open("wb") as file:
        np.savez_compressed(file, told=np.array(json.dumps(facts)), **arrays)
    entry = {"row": "DDIP", "column": "PGD", "eps_255": 8.0, "knowledge_kind": "blind"}
    frame = pd.DataFrame([{**entry, "record": "1a2b3c4d"}, {**entry, "record": ""}])
    (page,) = traces.shown(frame, tmp_path, tmp_path, "t")
    assert page["title"] == "Decision trace: DDIP, PGD 8"
    assert page["images"][0]["strip"][0]["says"].startswith("iteration 0: class ")
    assert page["images"][0]["strip"][-1]["says"].startswith("result: class ")
    assert (tmp_path / "t-trace-1a2b3c4d-1.pdf").is_file()


def test_mended_and_lost_images_take_turns():
    records = pd.DataFrame(
        {"id": list("abcdef"), "label": 0, "adversarial_label": [0, 1, 1, 1, 1, 1],
         "correct": [True, True, True, False, True, False]}
    )  # fmt: skip
    assert chosen(records, 4).id.tolist() == ["b", "d", "c", "f"]
    assert chosen(records, 9).id.tolist()[-1] == "a", "an example that misled nobody comes last"
    with pytest.raises(InputError, match="images: expected at least 1, got 0"):
        chosen(records, 0)
