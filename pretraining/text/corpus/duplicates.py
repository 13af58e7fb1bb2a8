"""Documents that were there before: equal ones by a digest, similar ones by MinHash, in little memory.

Shapes: D documents of a unit, N bytes of their texts, M bins of a signature, K bands.
"""

from __future__ import annotations

import numpy as np

from pretraining.text.corpus.corpus import expand_runs

SHINGLE = 32  # bytes: some five or six words
BINS = 128
SMALLEST = 8 * SHINGLE  # bytes; the shingles of a shorter text are too few to compare
_ROWS_PER_BAND = (4, 8, 16)


class Seen:
    """A set of 64-bit digests in 8 bytes each: sorted runs, merged as they grow, looked up by bisection."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def add(self, digests: np.ndarray) -> np.ndarray:
        """Add digests; tells which of them are there for the first time. bool, the shape of `digests`."""
        fresh = np.zeros(len(digests), dtype=bool)
        fresh[np.unique(digests, return_index=True)[1]] = True
        for run in self._runs:
            places = np.minimum(np.searchsorted(run, digests), len(run) - 1)
            fresh &= run[places] != digests
        added = np.sort(digests[fresh])
        while self._runs and len(self._runs[-1]) <= 2 * len(added):
            added = np.sort(np.concatenate([added, self._runs.pop()]))
        if len(added):
            self._runs.append(added)
        return fresh


class NearDuplicates:
    """Finds documents whose sets of shingles resemble those of an earlier one.

    Bands of a MinHash signature are compared: with k bands of r bins each, two documents of similarity s (Jaccard's)
    meet with probability 1 - (1 - s^r)^k, which rises steeply around (1/k)^(1/r); r is chosen so that this is nearest
    to `similarity`. Memory is 8 bytes per band and document.
    """

    def __init__(self, similarity: float) -> None:
        self.rows = min(_ROWS_PER_BAND, key=lambda rows: abs((rows / BINS) ** (1 / rows) - similarity))
        self._seen = Seen()

    def add(self, texts: list[str]) -> np.ndarray:
        """Add documents; tells which of them resemble none before. bool [D]."""
        fresh = np.ones(len(texts), dtype=bool)
        contents = [" ".join(text.lower().split()).encode() for text in texts]
        long = np.array([number for number, content in enumerate(contents) if len(content) >= SMALLEST], dtype=np.int64)
        if len(long):
            bands = _bands(signatures([contents[number] for number in long]), self.rows)
            fresh[long] = self._seen.add(bands.reshape(-1)).reshape(bands.shape).all(1)
        return fresh


def signatures(contents: list[bytes]) -> np.ndarray:
    """Compute MinHash signatures: the least hash among the shingles that fall into each bin. uint64 [D, M].

    An empty bin takes the value of the next one that is not, marked by the distance (Shrivastava & Li 2014).
    """
    sizes = np.array([len(content) for content in contents])
    owner = np.repeat(np.arange(len(contents)), sizes - SHINGLE + 1)
    place = expand_runs(np.cumsum(sizes) - sizes, sizes - SHINGLE + 1)  # of each shingle
    flat = np.frombuffer(b"".join(contents), dtype=np.uint8)
    words = np.ndarray((len(flat) - 7,), dtype="<u8", buffer=flat, strides=(1,))  # each run of eight bytes
    hashes = words[place]
    for step in range(8, SHINGLE, 8):
        hashes = _mixed(hashes) ^ words[place + step]
    hashes = _mixed(hashes)
    found = np.full((len(contents), BINS), np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(found.reshape(-1), owner * BINS + (hashes >> np.uint64(57)).astype(np.int64), hashes)
    return _filled(found)


def _filled(found: np.ndarray) -> np.ndarray:
    empty = found == np.iinfo(np.uint64).max
    twice = np.concatenate([empty, empty], 1)
    place = np.where(twice, 2 * BINS, np.arange(2 * BINS))
    following = np.minimum.accumulate(place[:, ::-1], 1)[:, ::-1][:, :BINS]
    distance = (following - np.arange(BINS)).astype(np.uint64)
    values = np.take_along_axis(found, following % BINS, 1)
    return np.where(distance > 0, _mixed(values + distance), values)


def _bands(signature: np.ndarray, rows: int) -> np.ndarray:
    """Hash each band of `rows` bins together with its number. uint64 [D, K]."""
    parts = signature.reshape(len(signature), -1, rows)
    hashes = np.broadcast_to(np.arange(parts.shape[1], dtype=np.uint64), parts.shape[:2])
    for row in range(rows):
        hashes = _mixed(hashes ^ parts[:, :, row])
    return hashes


def _mixed(words: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words (the finaliser of splitmix64)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))
