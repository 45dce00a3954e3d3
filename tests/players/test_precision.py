"""Padding and precision: where a row's padding lies changes nothing, and bfloat16 stays near."""

import pytest
import torch
from tests.close import assert_close_sums
from tests.tiny import FAMILIES, save_model

from sparring.players.chat import Chat
from sparring.players.loading import load_model, load_tokenizer
from sparring.players.local import LocalPolicy
from sparring.players.logprobs import logprobs, pad
from sparring.players.player import Request, Sampling
from sparring.players.weights import Weights
from sparring.types import Message

pytestmark = pytest.mark.numeric

ASKED = ("open the dragon vault", "mend", "polish the brass lantern and sweep the stairs, please")
DTYPES = ("float32", "bfloat16")
ROUNDED = 0.25
"""Nats. Rounding to bfloat16 was seen to make 0.16; padding that is read as text makes above 2."""
PAD = 3
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def folder(request, tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"), request.param)


def told(folder, dtype):
    """A model, completions after prompts of several lengths, and the rows they make."""
    chat = Chat(load_tokenizer(str(folder)))
    weights = Weights(load_model(str(folder), dtype))
    speaks = LocalPolicy(weights, chat, Sampling(1.0, max_completion_length=9))
    wanted = [Request((Message("user", text),), (f"{text}/0", f"{text}/1")) for text in ASKED]
    said = [completion for row in speaks.sample(wanted) for completion in row]
    assert len({len(c.prompt_ids) for c in said}) >= 2
    assert max(len(c.token_ids) for c in said) >= 5
    return weights.model, said, [(c.prompt_ids, c.token_ids) for c in said]


def padded_right(model, rows):
    """Log-probabilities of each row's reply where the padding is behind it, not before."""
    longest = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids_BS = torch.full((len(rows), longest), PAD)
    attention_BS = torch.zeros_like(ids_BS)
    for row, (prompt, reply) in enumerate(rows):
        ids_BS[row, : len(prompt) + len(reply)] = torch.tensor((*prompt, *reply))
        attention_BS[row, : len(prompt) + len(reply)] = 1
    logp_BSV = model(input_ids=ids_BS, attention_mask=attention_BS).logits.float().log_softmax(-1)
    return [
        logp_BSV[row, range(len(p) - 1, len(p) + len(r) - 1), list(r)].tolist()
        for row, (p, r) in enumerate(rows)
    ]


def padded_left(model, rows, batch):
    logp_BT = logprobs(model, batch, 1.0)
    return [logp_BT[i, : len(reply)].tolist() for i, (_, reply) in enumerate(rows)]


def flat(rows):
    return [logp for row in rows for logp in row]


def furthest(one, other):
    pairs = zip(one, other, strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x, y, strict=True))


@every_dtype
def test_padding_on_the_left_and_on_the_right_give_the_same_log_probabilities(folder, dtype):
    model, said, rows = told(folder, dtype)
    batch = pad(rows, range(len(rows)), PAD, "cpu")
    with torch.no_grad():
        left, right = padded_left(model, rows, batch), padded_right(model, rows)
        batch.seen_PL.fill_(1)
        read = padded_left(model, rows, batch)
    for other in (right, [c.logprobs for c in said]):
        if dtype == "float32":
            assert_close_sums(flat(left), flat(other))
        assert furthest(left, other) < ROUNDED
    assert furthest(left, read) > 6 * ROUNDED, "the test could tell"


def test_a_model_is_loaded_in_the_dtype_that_was_asked_for(folder):
    assert load_model(str(folder)).dtype == torch.float32
    assert load_model(str(folder), "bfloat16").dtype == torch.bfloat16
    load_model(str(folder), "bfloat16").save_pretrained(folder / "narrow")
    assert load_model(str(folder / "narrow")).dtype == torch.bfloat16
    assert load_model(str(folder / "narrow"), "float32").dtype == torch.float32
