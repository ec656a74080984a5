"""The embedded text, a file of the user's, vocabularies, and windows of tokens."""

import hashlib
import json
import lzma
import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch

import evonas.data
from evonas.data import RawText
from evonas.data.text import split_text
from evonas.data.vocabulary import vocabulary
from evonas.data.windows import Windows, fixed_windows
from evonas.errors import DataError, UsageError


def documents(count: int, size: int = 400) -> tuple[bytes, ...]:
    return tuple(bytes([65 + i % 26]) * size for i in range(count))


def test_the_embedded_text_is_what_its_source_says():
    folder = files("evonas.data.sotu_moby")
    facts = json.loads((folder / "source.json").read_text())
    packed = (folder / "text.xz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == facts["sha256"]
    text = lzma.decompress(packed)
    assert hashlib.sha256(text).hexdigest() == facts["sha256_of_text"]
    assert sum(length for _, length in facts["documents"]) == len(text) == 4_767_036
    assert (facts["addresses"], facts["chapters"]) == (78, 135)
    assert "PDDL 1.0" in (folder / "LICENSE.txt").read_text()


def test_the_parts_are_made_of_whole_documents_that_interleave():
    data = evonas.data.load("sotu_moby")
    train, validation, heldout = (bytes(p.data) for p in (data.train, data.validation, data.heldout))
    # one address of every long stretch of time, and chapters of the book, in each part
    assert all(b"CHAPTER " in part and b"Congress" in part for part in (train, validation, heldout))
    assert len(train) + len(validation) + len(heldout) == 4_767_036 + 2 * (78 + 135)
    assert 0.05 < len(validation) / len(train) < 0.2
    assert 0.05 < len(heldout) / len(train) < 0.2
    folder = files("evonas.data.sotu_moby")
    text = lzma.decompress((folder / "text.xz").read_bytes())
    at = 0
    for name, length in json.loads((folder / "source.json").read_text())["documents"]:
        document = text[at : at + length]
        assert sum(document in part for part in (train, validation, heldout)) == 1, name
        at += length


def test_the_search_sees_no_heldout_part():
    view = evonas.data.load("sotu_moby").search_view()
    assert not hasattr(view, "heldout")
    assert set(view.__dataclass_fields__) == {"name", "train", "validation"}


def test_the_heldout_part_is_the_same_for_every_seed_and_fraction():
    made = [
        split_text("t", RawText(documents(40), source="t"), v, s) for v, s in ((None, 0), (0.25, 3), (0.5, 9))
    ]
    assert len({bytes(m.heldout.data) for m in made}) == 1
    assert len({bytes(m.validation.data) for m in made}) == 3
    assert len(made[1].validation) / (len(made[1].validation) + len(made[1].train)) == pytest.approx(0.25)


def test_parts_are_read_only():
    data = evonas.data.load("sotu_moby")
    with pytest.raises(ValueError, match="read-only"):
        data.train.data[0] = 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "the file is empty"), (b"x", "1 byte, too few"), (b"abcdefgh", "8 bytes, too few")],
)
def test_files_that_are_no_text_to_train_on(tmp_path, content, words):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        evonas.data.load("text_file", path=file)
    assert caught.value.hint


def test_paths_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="cannot be read: No such file"):
        evonas.data.load("text_file", path=tmp_path / "missing")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        evonas.data.load("text_file", path=tmp_path)
    with pytest.raises(UsageError, match="needs a path"):
        evonas.data.load("text_file")
    with pytest.raises(UsageError, match="is embedded") as caught:
        evonas.data.load("sotu_moby", path=tmp_path / "mine.txt")
    assert "text_file" in (caught.value.hint or "")


def test_any_bytes_are_text(tmp_path):
    content = np.random.default_rng(0).bytes(50_000)
    (tmp_path / "noise").write_bytes(content)
    data = evonas.data.load("text_file", path=tmp_path / "noise")
    parts = (data.train, data.validation, data.heldout)
    assert sum(map(len, parts)) == 50_000
    assert all(bytes(p.data)[:1000] in content for p in parts)
    for name, size in (("byte", 256), ("bpe", 300)):
        made = vocabulary(name, size, data.train)
        tokens = made.encode(data.validation.data)
        assert made.decode(tokens) == bytes(data.validation.data)
        assert made.lengths[tokens].sum() == len(data.validation)


def test_byte_pairs_learn_from_the_training_part_alone():
    raw = RawText(tuple(b"the sea the sea and the ship " * 40 for _ in range(20)), source="t")
    data = split_text("t", raw, None, 0)
    made = vocabulary("bpe", 262, data.train)
    assert made is vocabulary("bpe", 262, data.train)
    assert made.size == len(made.lengths) == 262
    learned = {made.decode([t]) for t in range(256, 262)}
    assert b"th" in learned or b"he" in learned
    assert len(made.encode(b"the sea")) < 7


def test_byte_pairs_are_the_same_in_another_process():
    program = (
        "from evonas.data.text import TextSplit; from evonas.data.vocabulary import vocabulary; import numpy as np\n"
        "text = b'it was the best of times, it was the worst of times; ' * 50\n"
        "v = vocabulary('bpe', 275, TextSplit(np.frombuffer(text, np.uint8)))\n"
        "print([v.decode([t]) for t in range(275)])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1] != ""


def test_vocabularies_that_do_not_fit():
    train = split_text("t", RawText(documents(20), source="t"), None, 0).train
    with pytest.raises(UsageError, match="vocabulary is 512 and tokenizer is 'byte'"):
        vocabulary("byte", 512, train)
    with pytest.raises(UsageError, match=r"gives a BPE vocabulary of \d+ tokens, the model has 5000"):
        vocabulary("bpe", 5000, train)
    with pytest.raises(UsageError, match="needed are more than the 256 bytes"):
        vocabulary("bpe", 256, train)
    with pytest.raises(UsageError, match="unknown tokenizer 'word'"):
        vocabulary("word", 256, train)
    with pytest.raises(UsageError, match=r"token 256, needed are numbers from 0 to 255"):
        vocabulary("byte", 256, train).decode([1, 256])


def test_windows_are_a_function_of_seed_and_step():
    view = evonas.data.load("sotu_moby").search_view()
    made = vocabulary("byte", 256, view.train)
    one, same, other = (Windows(view, made, batch=4, sequence=16, seed=s) for s in (1, 1, 2))
    inputs, targets = one(7)
    assert inputs.shape == targets.shape == (4, 16)
    assert inputs.dtype == torch.int64
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    assert torch.equal(inputs, same(7)[0])
    assert not torch.equal(inputs, one(8)[0])
    assert not torch.equal(inputs, other(7)[0])
    text = bytes(view.train.data)
    assert all(bytes(row.tolist()) in text for row in inputs)


def test_fixed_windows_are_spread_and_do_not_overlap():
    split = evonas.data.load("sotu_moby").validation
    made = vocabulary("byte", 256, split)
    batches = list(fixed_windows(split, made, count=10, sequence=64, batch=4))
    assert [len(i) for i, _ in batches] == [4, 4, 2]
    first, last = batches[0][0][0], batches[-1][1][-1]
    assert bytes(first.tolist()) == bytes(split.data[:64])
    assert bytes(last.tolist()) == bytes(split.data[-64:])
    short = split_text("t", RawText(documents(20, 100), source="t"), None, 0).validation
    assert (
        sum(len(i) for i, _ in fixed_windows(short, made, count=99, sequence=60, batch=4)) == len(short) // 61
    )


def test_a_sequence_longer_than_the_text():
    view = split_text("mine", RawText(documents(20, 10), source="t"), None, 0).search_view()
    made = vocabulary("byte", 256, view.train)
    with pytest.raises(
        UsageError, match=r"training part of data set 'mine' has 160 tokens, needed are 513"
    ) as caught:
        Windows(view, made, batch=2, sequence=512)
    assert "make sequence smaller" in (caught.value.hint or "")
    with pytest.raises(
        UsageError, match="part of data set 'mine' that is scored has 20 tokens, needed are 65"
    ):
        list(fixed_windows(view.validation, made, count=3, sequence=64, batch=2, name="mine"))


def test_a_share_of_the_training_text_is_made_of_blocks_and_part_of_a_larger_one():
    view = evonas.data.load("sotu_moby").search_view()
    made = vocabulary("byte", 256, view.train)
    small, large, whole = (
        Windows(view, made, batch=2, sequence=64, seed=3, share=s) for s in (0.1, 0.5, 1.0)
    )
    assert len(small.stream) / len(whole.stream) == pytest.approx(0.1, rel=0.01)
    blocks, more = ({bytes(b.tolist()) for b in w.stream.split(4096)} for w in (small, large))
    text = bytes(view.train.data)
    assert all(b in text for b in blocks)
    # the last block of the text is shorter and may shift those behind it
    assert len(blocks - more) <= 1
    with pytest.raises(UsageError, match="share of the training data is 0"):
        Windows(view, made, batch=2, sequence=64, share=0)


def test_names_of_both_kinds_without_torch_or_tokenizers():
    program = (
        "import sys, evonas.data as d; assert {'sotu_moby', 'text_file', d.DEFAULT} <= set(d.names())\n"
        "assert d.load(d.DEFAULT_TEXT).kind == 'text' and d.load().kind == 'image'\n"
        "assert not {'torch', 'tokenizers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
