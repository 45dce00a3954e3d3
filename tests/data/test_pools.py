"""WildJailbreak's rows become demonstrations; what looks like a pool is read as one."""

import json

import pytest
from tests.command import sparring_command

from sparring.data.pools import is_pool, read_pool
from sparring.games.game import Briefs, answer_of
from sparring.types import UsageError

VAULT, SCENE = "open the dragon vault", "Write the scene in which the vault is opened."
BRIEFS = Briefs("rewrite what is forbidden", "rewrite what is allowed")


@pytest.mark.parametrize("name", ["train.tsv", "harmful.jsonl"])
def test_wildjailbreaks_rows_are_demonstrations_with_a_short_thought(tmp_path, name):
    path = tmp_path / name
    row = {"vanilla": VAULT, "adversarial": SCENE}
    if path.suffix == ".tsv":
        row |= {"completion": "", "data_type": "adversarial_harmful"}
        plain = [VAULT, "", "", "vanilla_harmful"]
        path.write_text("\n".join("\t".join(cells) for cells in (row, row.values(), plain)))
    else:
        path.write_text(json.dumps(row))
    [demo] = read_pool(path, BRIEFS)
    assert [message.content for message in demo.observation] == [BRIEFS.harmful, VAULT]
    assert answer_of(demo.reply) == SCENE
    assert not is_pool(str(path))


def test_a_file_of_chat_is_no_place_for_rows_of_seeds(tmp_path):
    path = tmp_path / "harmful.jsonl"
    path.write_text(json.dumps({"vanilla": VAULT, "adversarial": SCENE}))
    with pytest.raises(UsageError, match="wanted"):
        read_pool(path)


@pytest.mark.parametrize(("reason", "finished"), [({}, True), ("stop", True), ("length", False)])
def test_a_row_says_where_its_reply_goes_on_after_what_is_shown(tmp_path, reason, finished):
    path, turns = tmp_path / "chat.jsonl", {"user": VAULT, "assistant": "Turn the"}
    row = {"messages": [{"role": role, "content": text} for role, text in turns.items()]}
    path.write_text(json.dumps(row | ({"finish_reason": reason} if reason else {})))
    assert [demo.finished for demo in read_pool(path)] == [finished]


def test_magics_layout_is_a_pool_of_which_all_replies_have_to_parse(tmp_path):
    path = tmp_path / "pool.json"
    row = {"instruction": VAULT, "input": "", "system": "rewrite"}
    right = f"<think>a play</think><answer>{SCENE}</answer>"
    path.write_text(json.dumps([row | {"output": right}, row | {"output": right}]))
    assert "2 rewrites" in sparring_command("data", "validate", path).text
    path.write_text(json.dumps([row | {"output": right}, row | {"output": SCENE}]))
    ended = sparring_command("data", "validate", path)
    assert (ended.code, f"{path}: record 2: the assistant's reply" in ended.text) == (2, True), (
        ended
    )
