"""Chunks of image files: memory holds few of them, and reading one again gives the same images."""

import pickle

import pytest
import torch
from fake_data import picture
from test_grid import cell, run, same

import data.listing
from data.errors import InputError
from data.images import cut
from data.listing import LazyImages, Listing

SIZE = 3 * 16 * 16 * 4  # bytes of an image


@pytest.fixture
def reads(monkeypatch):
    """Yield a list to which the ids of each read are added; no images are held at first."""
    LazyImages.held.clear()
    ids, take = [], Listing.take
    monkeypatch.setattr(Listing, "take", lambda self, which: ids.append(self.ids) or take(self, which))
    yield ids
    LazyImages.held.clear()


@pytest.fixture
def listing(tmp_path) -> Listing:
    for number in range(12):
        picture(tmp_path / f"{number}.png", size=(16, 16), seed=number)
    ids = tuple(f"t/{number}" for number in range(12))
    files = tuple(tmp_path / f"{number}.png" for number in range(12))
    return Listing(ids, torch.arange(12), files, 16, None)


def test_they_are_the_images_of_the_listing(listing, reads):
    whole = listing.take(range(12))
    for places in cut([5, 3, 11, 0, 2], 2):
        chunk, expected = listing.take_lazy(places), whole.take(places)
        assert (chunk.ids, chunk.digest, len(chunk)) == (expected.ids, expected.digest, len(places))
        assert torch.equal(chunk.images, expected.images)
        assert torch.equal(chunk.labels, expected.labels)
        assert torch.equal(chunk.take([0]).images, expected.images[:1])
        assert torch.equal(chunk.to(torch.device("cpu")).images, expected.images)
        assert chunk.shape == expected.shape == (3, 16, 16)


def test_their_shape_needs_no_reading(listing, reads):
    assert listing.take_lazy([1, 2]).shape == (3, 16, 16)
    assert reads == []


def test_memory_holds_those_that_were_asked_for_last(listing, reads, monkeypatch):
    monkeypatch.setattr(data.listing, "HELD", 4 * SIZE)  # two images
    chunks = [listing.take_lazy(places) for places in cut(range(12), 2)]
    assert reads == []
    for chunk in chunks:
        chunk.images  # noqa: B018
        chunk.images  # noqa: B018
        assert len(LazyImages.held) <= 2
    assert reads == [chunk.ids for chunk in chunks]
    chunks[4].images, chunks[5].images, chunks[0].images, chunks[5].images, chunks[4].images
    assert reads[6:] == [chunks[0].ids, chunks[4].ids]


def test_one_that_is_larger_than_the_room_is_held_alone(listing, reads, monkeypatch):
    monkeypatch.setattr(data.listing, "HELD", 1)
    first, second = (listing.take_lazy(places) for places in cut(range(12), 6))
    first.images, first.images, second.images, second.images  # noqa: B018
    assert reads == [first.ids, second.ids]


def test_a_process_is_sent_their_names_and_reads_them_once(listing, reads):
    chunk = listing.take_lazy(range(12))
    digest, expected = chunk.digest, chunk.images
    message = pickle.dumps(chunk)
    assert len(message) < 12 * SIZE / 8
    LazyImages.held.clear()  # as in another process
    reads.clear()
    for _ in range(5):  # one task each
        received = pickle.loads(message)
        assert received.digest == digest
        assert torch.equal(received.images, expected)
    assert reads == [chunk.ids]
    assert len(LazyImages.held) == 1


def sent_elsewhere(chunk: LazyImages) -> LazyImages:
    """Return the chunk as another process has it, which has read nothing."""
    message = pickle.dumps(chunk)
    LazyImages.held.clear()
    return pickle.loads(message)


def test_files_that_change_while_a_run_lasts_end_it(listing, reads, tmp_path):
    chunk = listing.take_lazy([3, 4])
    chunk.digest  # noqa: B018
    picture(tmp_path / "4.png", size=(16, 16), seed=99)
    with pytest.raises(InputError, match="images t/3 to t/4: expected the files that the run began with"):
        sent_elsewhere(chunk).images  # noqa: B018


def test_a_file_that_cannot_be_read_any_more_fails_one_task(listing, reads, tmp_path):
    chunk = listing.take_lazy([3, 4])
    chunk.digest  # noqa: B018
    content = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").unlink()
    with pytest.raises(InputError, match=r"4\.png: expected an image, got one that cannot be read"):
        listing.take_lazy([4]).digest  # noqa: B018, at first it is the user's mistake
    again = sent_elsewhere(chunk)
    with pytest.raises(OSError, match=r"4\.png: expected an image, got one that cannot be read"):
        again.images  # noqa: B018
    (tmp_path / "4.png").write_bytes(content)
    assert len(again.images) == 2


def test_cells_on_files_have_the_same_records_whatever_memory_holds(fake, tmp_path, monkeypatch):
    root = fake("flower17")
    small = [
        f"{part}.{side}=32" for part in ("dataset", "victim.weights.dataset") for side in ("size", "resize")
    ]
    words = [
        "dataset=flower17", "victim=flower17/resnet18", f"data_dir={root}", *small, "victim.size=32",
        "victim.weights.start=null", "victim.weights.epochs=1",
        "victim.network._target_=tests.vision_api.Flat",
        "~victim.network.name", "+victim.network.depth=1", "+victim.network.width=1",
    ]  # fmt: skip
    cells = [
        cell(*words, "attack=clean", "purifier=jpeg"),
        cell(*words, "attack=pgd", "attack.steps=2", "purifier=pixel-deflection"),
    ]
    expected, _ = run(tmp_path / "one", cells, n=6)
    assert [result.failed or result.skipped for result in expected] == [None, None]
    monkeypatch.setattr(data.listing, "HELD", 1)
    same(run(tmp_path / "two", cells, n=6, workers=2)[0], expected)


@pytest.mark.parametrize("changed", [True, False])
def test_a_changed_file_changes_the_fingerprint_and_is_not_read_for_it(listing, reads, changed):
    before = listing.fingerprint
    if changed:
        picture(listing.files[7], size=(20, 16), seed=7)
    again = Listing(listing.ids, listing.labels, listing.files, 16, None)
    assert (again.fingerprint != before) == changed
    assert reads == []


def test_a_missing_file_is_part_of_the_fingerprint(listing):
    before = listing.fingerprint
    listing.files[3].unlink()
    assert Listing(listing.ids, listing.labels, listing.files, 16, None).fingerprint != before
