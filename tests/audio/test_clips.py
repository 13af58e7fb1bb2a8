"""Recordings as files have them: decoded, mixed and resampled; what is wrong with one is said by its name."""

import io

import numpy as np
import pytest
import soundfile

from pretraining.audio.data.clips import EncodedClip, decode, mixed, resampled
from pretraining.audio.data.recordings import read_recordings

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)).astype(np.float32)


def encoded(samples, rate=16000, kind="WAV", subtype=None):
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format=kind, subtype=subtype)
    return held.getvalue()


def clip(content, mono="mean"):
    return EncodedClip("some/file.wav", lambda: content, mono)


@pytest.mark.parametrize(("kind", "subtype", "error"), [
    ("WAV", "PCM_16", 1e-4), ("WAV", "FLOAT", 1e-6), ("FLAC", "PCM_16", 1e-4), ("OGG", "VORBIS", 0.05),
    ("OGG", "OPUS", 0.05), ("MP3", None, 0.05),
])  # fmt: skip
def test_every_format_gives_the_samples_back(kind, subtype, error):
    samples, rate = decode(encoded(TONE, kind=kind, subtype=subtype), "tone")
    assert rate in (16000, 48000)
    back = resampled(samples[:, 0], rate, 16000)
    shift = int(np.argmax(np.correlate(back[:4000], TONE[1000:3000])))  # encoders of speech delay a little
    assert abs(back[shift : shift + 2000] - TONE[1000:3000]).max() < error


def test_a_resampled_tone_keeps_its_frequency_and_strength():
    there = resampled(TONE, 16000, 8000)
    assert len(there) == 8000
    spectrum = np.abs(np.fft.rfft(there[1000:7000] * np.hanning(6000)))
    assert spectrum.argmax() == 440 * 6000 // 8000
    assert np.sqrt(np.mean(there[1000:7000] ** 2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-2)


def test_a_tone_above_half_the_new_rate_does_not_come_back_as_another():
    high = np.sin(2 * np.pi * 6000 * np.arange(16000) / 16000).astype(np.float32)
    assert np.abs(resampled(high, 16000, 8000)[1000:7000]).max() < 1e-3


def test_channels_are_mixed_by_the_rule_that_is_named():
    both = np.stack([np.full(100, 0.5), np.full(100, -0.1)], 1).astype(np.float32)
    assert mixed(both, "mean", "x")[0] == pytest.approx(0.2) and mixed(both, "first", "x")[0] == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"some/file\.wav has 2 channels: set data\.mono=mean or first"):
        clip(encoded(both), mono="refuse").samples(16000)
    with pytest.raises(ValueError, match=r"data\.mono=left: choose mean, first or refuse"):
        clip(encoded(both), mono="left").samples(16000)


WAV = encoded(TONE)
BAD = {
    "is silent throughout": encoded(np.zeros(1000, np.float32)),
    "is empty": encoded(np.zeros(0, np.float32)),
    "holds values that are no numbers": encoded(np.where(np.arange(900) == 7, np.nan, 0.1), subtype="FLOAT"),
    "is cut short: 16000 bytes of its sound are missing": WAV[:-16000],
    "is cut short|is not a readable recording": encoded(TONE, kind="FLAC")[:9000],
    "is not a readable recording": b"no sound at all, but some text",
    "is not a readable recording ": b"",
}


@pytest.mark.parametrize("told", BAD)
def test_what_is_wrong_with_a_file_is_said_with_its_name(told):
    with pytest.raises(ValueError, match=rf"some/file\.wav ({told.strip()})"):
        clip(BAD[told]).samples(16000)


def test_a_wav_that_was_written_into_a_pipe_is_whole():
    piped = WAV[:40] + (0x7FFFF000).to_bytes(4, "little") + WAV[44:]
    assert len(clip(piped).samples(16000)) == 16000


def test_bad_recordings_end_the_run_or_are_left_out_and_named(tmp_path, capsys):
    clips = [clip(WAV), *(EncodedClip(f"bad{number}.wav", lambda c=content: c) for number, content in
                          enumerate(BAD.values())), clip(encoded(TONE[:4000]))]  # fmt: skip
    with pytest.raises(ValueError, match=r"bad0\.wav is silent throughout: remove it \(or set data\.on_bad=skip\)"):
        read_recordings(clips, 16000, tmp_path, "some", "refuse")
    found = read_recordings(clips, 16000, tmp_path, "some", "skip")
    assert found.kept.tolist() == [0, 8] and found.lengths.tolist() == [16000, 4000]
    assert "7 of 9 recordings are left out:\n  bad0.wav is silent" in capsys.readouterr().err
    np.testing.assert_allclose(found.samples[:16000] / 32767, TONE, atol=1e-4)
    with pytest.raises(ValueError, match=r"none of 1 recordings can be read; the first: bad1"):
        read_recordings(clips[2:3], 16000, tmp_path, "other", "skip")


def test_without_soundfile_a_file_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"soundfile is not installed: pip install 'pretraining\[speech\]'"):
        clip(WAV).samples(16000)
    with pytest.raises(
        ValueError, match=r"^some/file\.wav is to be decoded, but soundfile is not installed.*nothing\)$"
    ):
        read_recordings([clip(WAV)], 16000, tmp_path, "some", "skip")  # not left out as if it were damaged
    monkeypatch.setitem(__import__("sys").modules, "soxr", None)
    with pytest.raises(ValueError, match=r"16000 Hz is to be resampled to 8000 Hz, but soxr is not installed"):
        resampled(TONE, 16000, 8000)
