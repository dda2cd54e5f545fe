"""Where tokens stand in the text: exact for every kind of tokenizer, and what is read off it by hand."""

from __future__ import annotations

import re

import pytest
import torch

from forkpoint.train.columns_text import (
    Spans,
    header_numbers,
    padded,
    phrase_marks,
    phrase_pattern,
    piece_of,
    spans_of,
    step_numbers,
    thinking_marks,
    token_of,
    token_spans,
)
from tiny import tokenizer as words_tokenizer

TEXT = "Let's see:\n\nnaïve 🦊🦊 → 7 ½\n### Step 2: done </think> \\boxed{7}"


def byte_level(vocabulary=300):
    """A byte-level BPE in which 🦊 takes several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TEXT, "Let's check the step 12 again"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")


def blank_between_words():
    """A tokenizer of the SentencePiece kind: the decoder drops the blank before the first word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<end>", "▁so", "▁7", "7", "▁", "s", "▁no", "▁yes", "w", "\n"]
    inner = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="<unk>")


def spans(tokenizer, ids):
    return token_spans(ids, piece_of(tokenizer), tokenizer.decode)


def test_the_pieces_of_a_byte_level_answer_are_its_text():
    tokenizer = byte_level()
    text = TEXT + " 鷹鷹é\n\nß"  # not in what it was trained on
    ids = tokenizer(text)["input_ids"]
    assert sum("�" in tokenizer.decode([token]) for token in ids) >= 6, "some characters must be cut into tokens"
    found = spans(tokenizer, ids)
    assert found.text == text == tokenizer.decode(ids)
    for position, end in enumerate(found.end):
        read = tokenizer.decode(ids[: position + 1])
        assert text[:end].startswith(read.rstrip("�"))
        assert read == text[:end] or read.endswith("�")
    # Every character is covered, in order, and only tokens that share a character overlap.
    pairs = sorted(set(zip(found.start, found.end, strict=True)))
    assert [start for start, _ in pairs] == [0, *(end for _, end in pairs[:-1])]
    assert pairs[-1][1] == len(text)


def test_tokens_of_one_character_share_it():
    tokenizer = byte_level(261)
    ids = tokenizer("a🦊b")["input_ids"]
    found = spans(tokenizer, ids)
    assert len(ids) == 6
    assert found == Spans(text="a🦊b", start=(0, 1, 1, 1, 1, 2), end=(1, 2, 2, 2, 2, 3))


def test_bytes_that_are_no_character_end_nowhere():
    tokenizer = byte_level(261)
    fox = tokenizer("🦊")["input_ids"]
    cut = spans(tokenizer, [*fox[:2], *tokenizer("ab")["input_ids"]])
    assert len(cut.start) == 4
    assert cut.text.endswith("b")
    assert list(cut.end) == sorted(cut.end)


@pytest.mark.parametrize(("make", "text"), [(words_tokenizer, "a 1 + 2 = yes"), (blank_between_words, "so 7 no yes")])
def test_blanks_between_words_belong_to_the_next_word(make, text):
    tokenizer = make()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    found = spans(tokenizer, ids)
    assert found.text.lstrip(" ") == text == tokenizer.decode(ids)
    rest = found.text[found.start[1] : found.end[1]]
    assert rest == " " + text.split()[1]


def test_special_tokens_have_no_text_but_the_one_that_is_looked_for():
    tokenizer = words_tokenizer()
    ids = tokenizer("a b <end>")["input_ids"]
    assert spans(tokenizer, ids) == Spans(text=" a b", start=(0, 2, 4), end=(2, 4, 4))
    assert token_spans(ids, piece_of(tokenizer, "<end>"), tokenizer.decode).text == " a b <end>"


def test_the_rollouts_spans_drop_the_first_blank():
    from core_batches import rollouts_of

    tokenizer = words_tokenizer()
    batch = rollouts_of([[0.0, 0.0], [0.0]], groups=[0, 0])
    batch.ids_BT[:] = torch.tensor(tokenizer("a b")["input_ids"])
    first, second = spans_of(batch, tokenizer)
    assert first == Spans(text="a b", start=(0, 1), end=(1, 3))
    assert second == Spans(text="a", start=(0,), end=(1,))


def letters(text):
    """One token a character."""
    return Spans(text=text, start=tuple(range(len(text))), end=tuple(range(1, len(text) + 1)))


def by_hand(numbers):
    return "".join("." if number < 0 else str(number) for number in numbers)


def test_steps_end_where_the_expression_ends():
    found = step_numbers(letters("ab\n\ncd\n\n\n\ne\n\n"), re.compile(r"\n\s*\n"))
    assert by_hand(found) == "0000111111222"
    # Nothing but blanks is no step, at either end.
    assert by_hand(step_numbers(letters("\n\nab"), re.compile(r"\n\n"))) == "0000"
    assert step_numbers(letters(""), re.compile(r"\n\n")) == []


def test_a_token_belongs_to_the_step_of_its_first_visible_character():
    spans = Spans(text="a.\n\nb c", start=(0, 1, 5), end=(1, 5, 7))
    assert step_numbers(spans, re.compile(r"\n\n")) == [0, 0, 1]
    # A blank before a word belongs to the word, a token of blanks to the step it follows.
    spans = Spans(text="a ,  b", start=(0, 1, 3, 4), end=(1, 3, 4, 6))
    assert step_numbers(spans, re.compile(r" ,\s+")) == [0, 0, 0, 1]
    # The end token has no text and belongs to the last step.
    spans = Spans(text="a. b", start=(0, 1, 3, 4), end=(1, 3, 4, 4))
    assert step_numbers(spans, re.compile(r"\. ")) == [0, 0, 1, 1]


def test_headers_open_steps_and_what_precedes_them_is_in_none():
    text = "so ### Step 1: a ### Step 7: b"
    found = header_numbers(letters(text), re.compile(r"### Step \d+:"))
    assert by_hand(found) == "..." + "0" * 14 + "1" * 13
    assert header_numbers(letters("none"), re.compile("###")) == [-1] * 4
    # A token that reaches into a header belongs to its step.
    spans = Spans(text="a\n## b", start=(0, 1, 4), end=(1, 4, 6))
    assert header_numbers(spans, re.compile("##")) == [-1, 0, 0]


def test_thinking_ends_with_the_first_marker():
    assert thinking_marks(letters("ab</think>c</think>"), "</think>") == [True] * 10 + [False] * 9
    assert thinking_marks(letters("ab"), "</think>") == [False, False]
    spans = Spans(text="ab</think>c", start=(0, 1, 5, 10), end=(1, 5, 11, 11))
    assert thinking_marks(spans, "</think>") == [True, True, True, False]


def test_phrases_are_whole_words_in_any_case():
    spans = letters("We WAIT; await. let's\n check")
    pattern = phrase_pattern(["wait", "let's check"])
    expected = [3, 4, 5, 6, *range(16, 28)]
    assert [t for t, mark in enumerate(phrase_marks(spans, pattern)) if mark] == expected
    # Every token that shares a character with a phrase is in it.
    assert phrase_marks(Spans(text="so wait", start=(0, 2, 4), end=(2, 4, 7)), pattern) == [False, True, True]
    # What a user writes is no expression.
    assert phrase_pattern(["a.c"]).findall("abc a.c") == ["a.c"]
    assert phrase_pattern(["so", "so on"]).findall("so on") == ["so on"]


def test_the_token_of_a_character():
    spans = Spans(text="so 7", start=(0, 1, 2, 4), end=(1, 2, 4, 4))
    assert [token_of(spans, at) for at in range(5)] == [0, 1, 2, 2, -1]


def test_rows_are_padded():
    mask_BT = torch.tensor([[True, True], [True, False], [False, False]])
    assert padded([[0, 1], [2], []], mask_BT, -1).tolist() == [[0, 1], [2, -1], [-1, -1]]
