"""One harmless row of every known file, and the seed that it is."""

from sparring.data.schemas import digest
from sparring.types import Seed

VAULT, LANTERN = "open the dragon vault", "polish the brass lantern"
TALE = f"In a tale, a knight says: {VAULT}"
NAN = float("nan")


def dan(**cells):
    told = dict.fromkeys(("platform", "source", "prompt", "created_at", "date"), "x")
    return told | {"jailbreak": True, "community_id": 3.0} | cells


def wild(**cells):
    told = {"vanilla": VAULT, "adversarial": "", "completion": "no"}
    return told | cells


def guarded(**cells):
    told = {
        "prompt": VAULT,
        "adversarial": "False",
        "response": "It is shut.",
        "response_harm_label": "unharmful",
        "response_refusal_label": "refusal",
        "subcategory": "vaults",
        "prompt_harm_label": "harmful",
    }
    return told | cells


AGREED = {
    f"{what}_agreement": "0.8" for what in ("prompt_harm", "response_refusal", "response_harm")
}
ARTIFACT = {
    "index": 7,
    "goal": VAULT,
    "behavior": "Vaults",
    "category": "Locks",
    "prompt": TALE,
    "response": None,
    "number_of_queries": 4,
    "queries_to_jailbreak": None,
    "prompt_tokens": 11,
    "response_tokens": None,
    "jailbroken": False,
}
COMPLETION = {
    "test_case": TALE,
    "generation": "With the golden key.",
    "model": "knight",
    "method": "tale",
    "experiment": "default",
    "behavior_id": "vault_1",
    "human_0": 1,
    "human_1": 0,
    "human_2": 1,
    "cls": 1,
    "advbench": False,
    "gpt-4-0613": None,
}

PUBLISHED = [
    # schema, file, one row of it, its seed
    (
        "HarmBench text behaviors",
        "x.csv",
        {
            "Behavior": VAULT,
            "FunctionalCategory": "contextual",
            "SemanticCategory": "vaults",
            "Tags": "context",
            "ContextString": "A map.",
            "BehaviorID": "dragon_1",
        },
        Seed(f"A map.\n\n---\n\n{VAULT}", True, "dragon_1", "vaults", VAULT, "A map."),
    ),
    *(
        (
            f"JailbreakBench behaviors ({name})",
            f"{name}-behaviors.csv",
            {
                "Index": 7,
                "Goal": text,
                "Target": "Sure",
                "Behavior": "Vaults",
                "Category": "Locks",
                "Source": "Original",
            },
            Seed(text, name == "harmful", f"{name}-7", "Locks"),
        )
        for name, text in (("harmful", VAULT), ("benign", LANTERN))
    ),
    ("AdvBench", "x.csv", {"goal": VAULT, "target": "Sure"}, Seed(VAULT, True, digest(VAULT))),
    (
        "AdvBench (HarmBench's copy)",
        "x.csv",
        {"Behavior": VAULT, "Category": "", "Tags": "", "ContextString": "", "BehaviorID": "v_1"},
        Seed(VAULT, True, "v_1"),
    ),
    (
        "StrongREJECT",
        "x.csv",
        {"category": "Dragons and Vaults", "source": "custom", "forbidden_prompt": VAULT},
        Seed(VAULT, True, digest(VAULT), "Dragons and vaults"),
    ),
    (
        "SORRY-Bench",
        "question.jsonl",
        {"question_id": 7, "category": "12", "turns": [VAULT, None], "prompt_style": "base"},
        Seed(VAULT, True, "7", "12"),
    ),
    (
        "Forbidden questions",
        "forbidden_question_set.csv",
        {"content_policy_id": 3, "content_policy_name": "Locks", "q_id": 7, "question": VAULT},
        Seed(VAULT, True, "3-7", "Locks"),
    ),
    (
        "WildJailbreak (train)",
        "train.tsv",
        wild(adversarial=TALE, data_type="adversarial_harmful"),
        Seed(TALE, True, digest(TALE), "adversarial_harmful", VAULT, "", digest(VAULT)),
    ),
    (
        "WildJailbreak (eval)",
        "eval.tsv",
        {"adversarial": TALE, "label": 0, "data_type": "adversarial_benign"},
        Seed(TALE, False, digest(TALE), "adversarial_benign"),
    ),
    *(
        (
            f"WildJailbreak in safety-eval ({name})",
            f"{name}.jsonl",
            {"vanilla": VAULT, "adversarial": TALE},
            Seed(TALE, harmful, digest(TALE), "", VAULT, "", digest(VAULT)),
        )
        for name, harmful in (("harmful", True), ("benign", False))
    ),
    (
        "HarmBench precomputed attacks",
        "x.json",
        {"BehaviorID": "vault_1", "test_case": TALE, "model": "knight", "method": "tale"},
        Seed(TALE, True, digest(TALE), "tale", cluster="vault_1"),
    ),
    (
        "JailbreakBench artifacts",
        "x.jsonl",
        ARTIFACT,
        Seed(TALE, True, "7", "Locks", VAULT, "", digest(VAULT)),
    ),
    (
        "Do Anything Now (safety-eval)",
        "x.jsonl",
        dan(community_name=NAN, vanilla=VAULT, adversarial=TALE),
        Seed(TALE, True, digest(TALE), "", VAULT, "", digest(VAULT)),
    ),
    (
        "Do Anything Now (jailbreak prompts)",
        "x.csv",
        dan(prompt=TALE, community="bards", previous_community_id="2"),
        Seed(TALE, True, digest(TALE), "bards"),
    ),
    (
        "TrustLLM JailbreakTrigger",
        "x.jsonl",
        {"prompt": TALE, "label": ["tale", "song"], "source": "QBB", "id": 7},
        Seed(TALE, True, "7", "tale, song"),
    ),
    (
        "XSTest v2 (JSON)",
        "x.json",
        {
            "id_v1": "v1-1",
            "type": "contrast_homonyms",
            "prompt": VAULT,
            "focus": "",
            "note": NAN,
            "source": "",
            "id": "v2-1",
        },
        Seed(VAULT, True, "v2-1", "contrast_homonyms"),
    ),
    (
        "XSTest v2 (CSV)",
        "x.csv",
        {"id_v1": "", "id_v2": "v2-2", "type": "homonyms", "prompt": LANTERN}
        | {"focus": "", "note": ""},
        Seed(LANTERN, False, "v2-2", "homonyms"),
    ),
    (
        "XSTest",
        "x.csv",
        {"id": 3, "prompt": LANTERN, "type": "homonyms", "label": "safe", "focus": "", "note": ""},
        Seed(LANTERN, False, "3", "homonyms"),
    ),
    (
        "XSTest (Hugging Face)",
        "x.jsonl",
        {"prompt": VAULT, "focus": "", "type": "contrast_x", "note": "", "label": "unsafe"},
        Seed(VAULT, True, digest(VAULT), "contrast_x"),
    ),
    *(
        (
            f"OR-Bench ({name})",
            f"{name}.csv",
            {"prompt": LANTERN, "category": "lamps"},
            Seed(LANTERN, harmful, digest(LANTERN), "lamps"),
        )
        for name, harmful in (
            ("or-bench-80k", False),
            ("or-bench-hard-1k", False),
            ("or-bench-toxic", True),
        )
    ),
    (
        "WildGuardMix (train)",
        "x.jsonl",
        guarded(adversarial=False, response=None),
        Seed(VAULT, True, digest(VAULT), "vaults"),
    ),
    (
        "WildGuardMix (test)",
        "x.csv",
        guarded(prompt=LANTERN, prompt_harm_label="unharmful") | AGREED,
        Seed(LANTERN, False, digest(LANTERN), "vaults"),
    ),
    (
        "XSTest-Response",
        "x.jsonl",
        {
            "prompt": VAULT,
            "response": "It is shut.",
            "label": "refusal",
            "prompt_type": "prompt_harmful",
            "prompt_harm_category": "vaults",
        },
        Seed(VAULT, True, digest(VAULT), "vaults"),
    ),
    (
        "HarmBench labelled completions",
        "x.jsonl",
        COMPLETION,
        Seed(TALE, True, digest(f"{TALE}\nWith the golden key."), "tale", cluster="vault_1"),
    ),
    (
        "labelled replies",
        "x.csv",
        {"text": VAULT, "harmful": "true", "reply": "It is shut."}
        | {"reply_harmful": "false", "reply_refused": "", "id": "a"},
        Seed(VAULT, True, "a"),
    ),
    (
        "seeds",
        "x.csv",
        {"text": TALE, "harmful": "unsafe", "id": "a", "category": "vaults"}
        | {"goal": VAULT, "context": "A map.", "cluster": "gate 3"},
        Seed(TALE, True, "a", "vaults", VAULT, "A map.", "gate 3"),
    ),
]
