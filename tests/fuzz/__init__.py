"""Damage drawn from a seed, and what a command may answer to it: success, or one clear line that leaves nothing."""

import re
import shutil

from omegaconf.errors import OmegaConfBaseException

from finetuning import launch as finetuning
from pretraining import launch as pretraining
from pretraining.cli.compose import compose
from pretraining.errors import HandoffError, RunError

QUIET = ["logger.wandb.mode=disabled", "logger.progress=false", "trainer.precision=fp32"]
ONE_STEP = [*QUIET, "trainer.max_steps=1", "trainer.val_every=0", "trainer.checkpoint_every=0"]
MAINS = {"pretrain": pretraining.main, "finetune": finetuning.main}
BYTES = [b"\0", b'"', b",", b"\xff", b"\r", b"\n\n", b"{", b"]", b"\\", b"\t", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"<"]
CONTENTS = [b"", b"\n", b"\xef\xbb\xbf", b"{}", b"[]", b"null", b"PAR1"]
CONTENTS += [b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\x7fWAVE"]
ENCODINGS = ["utf-16", "utf-32", "utf-8-sig", "utf-16-le", "utf-7"]
VALUE = re.compile(rb'"[^"\n]*"(?!:)|-?\b\d+(\.\d+)?\b|\btrue\b|\bfalse\b|\bnull\b|(?<=>)[^<\n]+(?=<)')
VALUES = [b"null", b"-1", b"1e999", b"0.5", b"[]", b"{}", b'"x"', b"[[1]]", b"true", b'""', b"9" * 20, b"NaN"]
OTHERS_WORDS = re.compile(  # of libraries and of Python itself, which tell a user nothing without the place
    r"codec can't|has no attribute|'NoneType' object|object is not|index out of range|must be (str|int)"
    r"|not supported between|invalid literal|could not convert|unhashable|Traceback|Errno"
)


def said_by(work, shown, names=()):
    """Carry `work` out; returns its refusal, or None. What is neither is returned with the word WRONG.

    A refusal is one line (but where it lists what a resume may not change), which holds one of `names` where its words
    are not our own.
    """
    try:
        work()
    except (RunError, HandoffError, OmegaConfBaseException) as error:  # the latter for a group that was taken away
        said = str(error) if isinstance(error, ValueError) else str(error).splitlines()[0]
        clear = said and (("\n" not in said and len(said) < 600) or said.split("\n")[0].endswith("configuration:"))
        foreign = OTHERS_WORDS.search(said) and not any(name in said for name in names)
        return f"WRONG words {shown}: {said}" if not clear or foreign else said
    except Exception as error:
        return f"WRONG {shown}: {type(error).__name__}: {error}"
    return None


def ends(overrides, root, run_dir, names=()):
    """Carry a run out, see `said_by`; what is refused leaves nothing."""
    shown = [word for word in overrides if word not in ONE_STEP][-2:]
    said = said_by(lambda: MAINS[root](compose([*overrides, f"run_dir={run_dir}"], root)), shown, names)
    left = said is not None and run_dir.exists()
    shutil.rmtree(run_dir, ignore_errors=True)
    return f"WRONG {shown} leaves a directory: {said}" if left else said


def wrong(said):
    """List what ended neither in success nor in one line."""
    return [line for line in said if line is not None and line.startswith("WRONG")]


def damaged(generator, content):
    """Damage a file's content; returns it, with what was done."""
    how = generator.choice(["flip", "cut", "insert", "delete", "repeat", "empty", "encode", "value", "value"])
    place, length = generator.randrange(len(content)), generator.choice([1, 8, 100])
    before, after = content[:place], content[place:]
    if how == "flip":
        return before + bytes([after[0] ^ generator.randrange(1, 256)]) + after[1:], how
    if how == "cut":
        return before, how
    if how == "insert":
        return before + generator.choice(BYTES) + after, how
    if how == "delete":
        return before + after[length:], how
    if how == "repeat":
        return before + before[-length:] + after, how
    if how == "empty":
        return generator.choice(CONTENTS), how
    values = [match.span() for match in VALUE.finditer(content)]
    if how == "value" and values:
        start, stop = generator.choice(values)
        return content[:start] + generator.choice(VALUES) + content[stop:], how
    return content.decode("latin-1").encode(generator.choice(ENCODINGS)), "encode"


def line_of(error, *names):
    """Take an error's words, which are one line that holds `names`."""
    said = str(error.value)
    assert "\n" not in said and len(said) < 600 and all(str(name) in said for name in names), said
    return said
