"""Templates, token ids and end tokens."""

from pathlib import Path

import pytest

from forkpoint.errors import InputError
from forkpoint.rollouts import Prompt
from forkpoint.tasks.prompts import BOXED, encode_prompts, end_token_ids, load_tokenizer, render, stop_text

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('No tools here') }}{% endif %}"
    "<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<model>{% endif %}"
)


def make(bos=None, eos="</s>", chat=None, adds=False, stops=()):
    """A byte-level tokenizer without merges, with or without a first token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", *stops, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>", *stops])
    if adds:
        pieces = [("<s>", 0), ("</s>", 1)]
        backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=pieces)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = chat
    return tokenizer


def prompt(text="What is {x}?", **changes):
    return Prompt(id="p1", text=text, **changes)


def text_of(ids, tokenizer):
    return tokenizer.decode(ids)


def test_every_template_by_its_text():
    tokenizer = make(chat=CHAT)
    cases = {
        "none": "What is {x}?",
        "chat": "<user>What is {x}?<model>",
        "auto": "<user>What is {x}?<model>",
        "boxed": "User:\nWhat is {x}?\nPlease reason step by step, "
        "and put your final answer within \\boxed{}.\n\nAssistant:\n",
        "Q: {question} {other}\nA:": "Q: What is {x}? {other}\nA:",
    }
    for template, expected in cases.items():
        assert text_of(render(prompt(), tokenizer, template=template), tokenizer) == expected
    assert BOXED.count("{question}") == 1


def test_auto_without_a_chat_template_is_the_text():
    messages = ({"role": "user", "content": "What is {x}?"},)
    assert text_of(render(prompt(messages=messages), make()), make()) == "What is {x}?"


def test_messages_are_kept_as_they_are():
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    tokenizer = make(chat=CHAT)
    assert text_of(render(prompt(messages=messages), tokenizer), tokenizer) == "<system>Be brief.<user>Hi<model>"


def test_the_first_token_comes_once_and_the_end_never():
    tokenizer = make(bos="<s>", adds=True, chat="{{ bos_token }}{{ messages[0]['content'] }}")
    assert tokenizer("ab")["input_ids"][0] == 0
    assert tokenizer("ab")["input_ids"][-1] == 1
    plain = render(prompt("ab"), tokenizer, template="none")
    chat = render(prompt("ab"), tokenizer, template="chat")
    written = render(prompt("ab"), tokenizer, template="<s>{question}")
    assert plain == chat == written
    assert plain.count(0) == 1
    assert 1 not in plain
    assert 0 not in render(prompt("ab"), make(bos="<s>"), template="none")


def test_a_chat_template_that_is_missing_or_refuses_is_one_sentence():
    with pytest.raises(InputError, match="no chat template"):
        render(prompt(), make(), template="chat")
    with pytest.raises(InputError, match="refuses prompt 'p1': No tools here"):
        render(prompt(messages=({"role": "tool", "content": "x"},)), make(chat=CHAT), template="chat")


def test_an_unknown_template_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'boxed'"):
        render(prompt(), make(), template="boxd")


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_prompt_is_named(text):
    with pytest.raises(InputError, match="prompt 'p1' is empty"):
        encode_prompts([prompt(text)], make(), max_tokens=9)


def test_an_overlong_prompt_is_named_or_dropped_in_place(caplog):
    three = [prompt("abc"), Prompt(id="p2", text="abcdefg"), Prompt(id="p3", text="abcdef")]
    tokenizer = make()
    with pytest.raises(InputError, match=r"2 of 3 prompts are longer than 3 tokens \(prompt 'p2' has 7\)"):
        encode_prompts(three, tokenizer, max_tokens=3)
    encoded = encode_prompts(three, tokenizer, max_tokens=6, overlong="drop")
    assert list(map(len, encoded)) == [3, 0, 6]
    assert "left out 1 of 3 prompts longer than 6 tokens" in caplog.text


class Generation:
    def __init__(self, eos):
        self.eos_token_id = eos


def test_end_tokens_are_those_of_tokenizer_model_and_stops():
    tokenizer = make(stops=("<end>",))
    assert end_token_ids(tokenizer) == (1,)
    assert end_token_ids(tokenizer, Generation(None)) == (1,)
    assert end_token_ids(tokenizer, Generation(7)) == (1, 7)
    assert end_token_ids(tokenizer, Generation([7, 1])) == (1, 7)
    assert end_token_ids(tokenizer, None, ["<end>", "two"]) == (1, 2)
    assert end_token_ids(make(eos=None), None, ["two"]) == ()
    assert end_token_ids(make(eos=None), Generation(5)) == (5,)


def test_no_end_at_all_is_one_sentence():
    with pytest.raises(InputError, match=r"no end token and no stop text .* set decode.stop"):
        end_token_ids(make(eos=None), Generation(None))
    with pytest.raises(InputError, match="a stop text is empty"):
        end_token_ids(make(), None, [""])


def test_stop_text_is_found_when_its_last_token_comes():
    tokenizer = make()
    stopped = stop_text(tokenizer, ["##", "énd"])
    for answer in ("a##", "énd", "x" * 99 + "##"):
        ids = tokenizer(answer)["input_ids"]
        assert [stopped(ids[:n]) for n in range(1, len(ids) + 1)] == [False] * (len(ids) - 1) + [True]
    assert not stopped(tokenizer("# #")["input_ids"])
    tokenizer.add_tokens(["a## The"])
    assert stop_text(tokenizer, ["##"])(tokenizer("xa## The")["input_ids"])
    assert stop_text(tokenizer, []) is None


def test_a_saved_tokenizer_is_loaded(tmp_path):
    make(chat=CHAT).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("a")["input_ids"] == make()("a")["input_ids"]


def test_a_wrong_path_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"there is no model folder .*nowhere; give a folder or a hub id"):
        load_tokenizer(tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no model folder"):
        load_tokenizer("runs/nowhere")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="there is no model folder mine/nowhere"):
        load_tokenizer("mine/nowhere")
    with pytest.raises(InputError, match="no tokenizer could be loaded from the folder") as error:
        load_tokenizer(tmp_path)
    assert "\n" not in str(error.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="hub id or folder 'nobody/nothing'") as error:
        load_tokenizer("nobody/nothing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "content"), [("tokenizer.json", "{}"), ("tokenizer.json", "\0"), ("tokenizer_config.json", "{")]
)
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, file, content):
    make().save_pretrained(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError) as error:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
def test_a_real_tokenizer_reads_the_papers_prompt():
    from transformers import PreTrainedTokenizerFast

    file = DATA / "tokenizers/torchtitan_test_tokenizer.json"
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(file))
    ids = render(prompt(), tokenizer, template="boxed")
    # This vocabulary has no token for a space and drops them.
    written = BOXED.replace("{question}", prompt().text)
    assert "".join(tokenizer.decode(ids).split()) == "".join(written.split())


def test_token_texts_join_to_the_answer():
    from forkpoint.tasks.prompts import token_text
    from tiny import tokenizer as words

    tokenizer = words()
    ids = tokenizer("1 + 2 = 3 yes")["input_ids"]
    text = token_text(tokenizer)
    assert "".join(map(text, ids)) == " 1 + 2 = 3 yes"


def test_token_texts_of_a_subword_tokenizer_are_left_alone():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from forkpoint.tasks.prompts import token_text

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    ids = tokenizer("so 1+2 = 3")["input_ids"]
    assert "".join(map(token_text(tokenizer), ids)) == "so 1+2 = 3"
