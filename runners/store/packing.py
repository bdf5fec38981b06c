"""Lossless compression of artifacts that contain images.

The float32 words of adversarial examples are of two kinds. Those at the border of the ball or on a grid of 8
bits make up most of an image with a few hundred different values; those in between hardly ever repeat.
Frequent words are written as places in a table, the others as they are. Both are split into their byte
planes, since the high bytes of neighbouring values are alike, and compressed with Zstandard.
"""

import struct

import numpy as np
import pyarrow as pa

VERSION = 1  # of the packed form, which the header of an artifact names
LIMIT = 256  # the most that unpacking may enlarge: a small file must not take all memory
SAMPLED = 2**16  # words that the table of frequent ones is made from
FREQUENT = 4  # how often a word occurs among them
TABLE = 2**16 - 1  # words in the table; place 0 stands for a word that is not in it
SLOTS = 2**18  # of the look-up of the words in the table
COUNTS = struct.Struct("<QQQ")  # bytes of the content, words in the table, words outside of it
LEVEL = 3


def packed(content: bytes) -> bytes | None:
    """Return the content in fewer bytes; None if that loses a bit or saves little space."""
    words = np.frombuffer(content, np.uint32, count=len(content) // 4)
    table = _frequent(words)
    places = _places(words, table)
    rare = words[places == 0]
    parts = (table, _planes(places), _planes(rare), content[4 * len(words) :])
    body = b"".join(bytes(part) for part in parts)
    small = COUNTS.pack(len(content), len(table), len(rare)) + _codec().compress(body, asbytes=True)
    worth = len(small) < 0.95 * len(content) <= LIMIT * len(small)
    return small if worth and unpacked(small) == content else None


def unpacked(small: bytes) -> bytes:
    """Return the content that was packed. Raises ValueError for anything else."""
    try:
        size, frequent, rare = COUNTS.unpack_from(small)
        if max(size, 4 * frequent, 4 * rare) > LIMIT * len(small):
            raise ValueError(f"it would be enlarged more than {LIMIT} times")
        count, rest = divmod(size, 4)
        body = memoryview(
            _codec().decompress(small[COUNTS.size :], 4 * frequent + 2 * count + 4 * rare + rest)
        ).cast("B")
    except (struct.error, pa.ArrowException, OSError) as error:
        raise ValueError(str(error)) from error
    table, body = np.frombuffer(body[: 4 * frequent], np.uint32), body[4 * frequent :]
    places, body = _whole(body, count, np.uint16), body[2 * count :]
    words = np.concatenate([np.zeros(1, np.uint32), table])[places]
    words[places == 0] = _whole(body, rare, np.uint32)
    return words.tobytes() + bytes(body[4 * rare :])


def _codec() -> pa.Codec:
    return pa.Codec("zstd", LEVEL)


def _frequent(words: np.ndarray) -> np.ndarray:
    """Return the sorted words that occur often in an evenly spaced sample."""
    step = max(1, len(words) // SAMPLED)
    values, counts = np.unique(words[::step], return_counts=True)
    return values[counts >= FREQUENT][:TABLE]


def _places(words: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the place of each word in the table, from 1 on; 0 for a word that is not found there.

    A few words of the table are not found because another word takes their slot.
    """
    slots = np.zeros(SLOTS, np.uint16)
    slots[_slot(table)] = np.arange(1, len(table) + 1)
    places = slots[_slot(words)]
    return np.where(np.append(np.uint32(0), table)[places] == words, places, np.uint16(0))


def _slot(words: np.ndarray) -> np.ndarray:
    """Return where words are looked up: the upper bits of a product with 2**32 over the golden ratio."""
    return (words * np.uint32(2654435769)) >> np.uint32(32 - SLOTS.bit_length() + 1)


def _planes(words: np.ndarray) -> bytes:
    """Return all first bytes, then all second bytes, and so on."""
    return words.view(np.uint8).reshape(-1, words.itemsize).T.tobytes()


def _whole(planes: memoryview, count: int, kind: type) -> np.ndarray:
    """Return `count` words from their byte planes."""
    size = np.dtype(kind).itemsize
    rows = np.frombuffer(planes[: size * count], np.uint8).reshape(size, count)
    return np.ascontiguousarray(rows.T).view(kind)[:, 0]
