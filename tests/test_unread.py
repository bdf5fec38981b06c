"""Chunks of image files: memory holds few of them, and what is read again is what was read at first."""

import pickle

import pytest
import torch
from fake_data import picture

import data.listing
from data.errors import InputError
from data.images import cut
from data.listing import Listing, Unread

SIZE = 3 * 16 * 16 * 4  # bytes of an image


@pytest.fixture
def reads(monkeypatch):
    """The positions that were read, in order; nothing is held at first."""
    Unread.held.clear()
    seen, take = [], Listing.take
    monkeypatch.setattr(Listing, "take", lambda self, which: seen.append(self.ids) or take(self, which))
    yield seen
    Unread.held.clear()


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
        chunk, expected = listing.later(places), whole.take(places)
        assert (chunk.ids, chunk.digest, len(chunk)) == (expected.ids, expected.digest, len(places))
        assert torch.equal(chunk.images, expected.images)
        assert torch.equal(chunk.labels, expected.labels)
        assert torch.equal(chunk.take([0]).images, expected.images[:1])


def test_memory_holds_those_that_were_asked_for_last(listing, reads, monkeypatch):
    monkeypatch.setattr(data.listing, "HELD", 4 * SIZE)  # two of them
    chunks = [listing.later(places) for places in cut(range(12), 2)]
    assert reads == []
    for chunk in chunks:
        chunk.images  # noqa: B018
        chunk.images  # noqa: B018
        assert len(Unread.held) <= 2
    assert reads == [chunk.ids for chunk in chunks]
    chunks[4].images, chunks[5].images, chunks[0].images, chunks[5].images, chunks[4].images
    assert reads[6:] == [chunks[0].ids, chunks[4].ids]


def test_one_that_is_larger_than_the_room_is_held_alone(listing, reads, monkeypatch):
    monkeypatch.setattr(data.listing, "HELD", 1)
    first, second = (listing.later(places) for places in cut(range(12), 6))
    first.images, first.images, second.images, second.images  # noqa: B018
    assert reads == [first.ids, second.ids]


def test_a_process_is_sent_their_names_and_no_pixels(listing, reads):
    chunk = listing.later(range(12))
    digest = chunk.digest
    sent = pickle.dumps(chunk)
    assert len(sent) < 12 * SIZE / 8
    got = pickle.loads(sent)
    assert got.digest == digest
    assert torch.equal(got.images, chunk.images)


def test_files_that_change_while_a_run_lasts_are_said(listing, reads, tmp_path):
    chunk = listing.later([3, 4])
    chunk.digest  # noqa: B018
    picture(tmp_path / "4.png", size=(16, 16), seed=99)
    with pytest.raises(InputError, match="images t/3 to t/4: expected the files that the run began with"):
        pickle.loads(pickle.dumps(chunk)).images  # noqa: B018
