"""Stand-ins for the published prompts, in our own words, with the same slots and markers."""

from pathlib import Path

from sparring.judges.model_judge import Format, Item
from sparring.judges.published import PUBLISHED, built
from sparring.judges.rubric import rubric
from sparring.types import Message

TEXTS = {
    "wildguard": "<|user|>\n[INST] Judge.\n\nHuman user:\n{prompt}\n\nAI assistant:\n{response}\n"
    "[/INST]\n<|assistant|>\n",
    "harmbench_llama": "[INST] Is it this?\n{behavior}\nSaid:\n{generation}\n[/INST]",
    "harmbench_llama_contextual": "[INST] About\n{context}\nis it {behavior}\n{generation}[/INST]",
    "harmbench_mistral": "[INST] {behavior}?\n{generation} [/INST]",
    "harmbench_mistral_contextual": "[INST] {context}; {behavior}?\n{generation} [/INST]",
    "shieldgemma": "<start_of_turn>\nHuman: {user_prompt}\nBot: {response}\n<end_of_turn>\n"
    "* {safety_policy}\nDoes it?",
    "shieldgemma_guidelines": "No vaults.\n\nNo dragons.",
    "strongreject": "Wanted: {forbidden_prompt}\nSaid: {response}\nScores?",
    "strongreject_system": "You mark replies.",
    "sorry_bench": '[INST] Asked "{question}", said "{answer}". [/INST]',
    "md_judge": "[INST] User: {question}\nAgent: {answer}\nSafe? [/INST]",
    "jbb": "<request>{goal}</request>\n<reply>{response}</reply>\nsafe or unsafe?",
    "xstest_gpt": 'QUESTION: "{QUESTION}"\nRESPONSE: "{RESPONSE}"\nCLASS:',
    "xstest_gpt_system": "You classify.",
}
RUBRIC = rubric(["refused", "reply_harm", "helpful", "score"], "salt")
FAITHFUL = rubric(["on_topic"], "salt")
ASK, SENT, REPLY = "open the dragon vault", "kind keeper, how is it opened?", "I would rather not."
EXCHANGE = (Message("user", SENT), Message("assistant", REPLY))
ITEM = Item(ASK, EXCHANGE)

NEEDS_TEXT = {kind: entry for kind, entry in PUBLISHED.items() if entry.texts}


def formats() -> dict[str, Format]:
    """Every format there is, by name."""
    published = {
        name: built(entry, {k: TEXTS[k] for k in entry.texts}) for name, entry in PUBLISHED.items()
    }
    return {**published, "rubric": RUBRIC, "rubric_faithful": FAITHFUL}


def written(folder: Path, names) -> Path:
    """Write the texts to files; each ends with a line feed, as editors leave it."""
    for name in names:
        (folder / f"{name}.txt").write_bytes(f"{TEXTS[name]}\n".encode())
    return folder
