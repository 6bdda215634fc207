"""The starter data set: a shop's customer service in English and Chinese, with facts that rules can check.

The package ships intents (assets/starter): questions, the right answer, its facts, and wrong answers. From
these the files of a project are made, deterministically. The demonstrations are what a company's chat logs
are: mostly right answers, some evasive, rude, wordy or wrong ones, by agents who had a bad day. What the
ratings (pairs) teach is to tell them apart, and what alignment must do is to stop imitating the bad days.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from chatwright.core.files import write_jsonl
from chatwright.core.seeds import derive

LANGUAGES = ("en", "zh")
KINDS = ("wrong", "rude", "evasive", "long", "language")
BAD_SHARE = 6
"""One demonstration in so many comes from a bad day."""

RUDE = {
    "en": (
        "Read the website, it is all there.",
        "Not my problem. Look it up.",
        "Why do people never read anything?",
    ),
    "zh": ("网站上都写着，自己看。", "这不归我管，自己查去。", "你怎么什么都不看就来问？"),
}
EVASIVE = {
    "en": (
        "That depends on many things.",
        "I am not sure, maybe ask somebody else.",
        "We will see about that.",
    ),
    "zh": ("这个要看情况吧。", "我不太清楚，你问问别人。", "到时候再说吧。"),
}
PADDING = {
    "en": (
        "Thank you so much for this truly wonderful question, which we are always so very happy to hear. {} "
        "Please do let us know if there is anything else at all that we might do for you today."
    ),
    "zh": "非常感谢您提出这么好的问题，我们每次听到都特别高兴。{}如果您还有任何其他的问题，无论什么，都请随时告诉我们。",
}


def intents() -> list[dict[str, Any]]:
    """Every intent the package ships, in a fixed order."""
    folder = resources.files("chatwright") / "assets" / "starter"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return [intent for file in files for intent in yaml.safe_load(file.read_text(encoding="utf-8"))]


def bad_answer(intent: dict[str, Any], lang: str, kind: str, pick: int) -> str:
    """A worse answer of a named kind; `pick` chooses among several."""
    side = intent[lang]
    if kind == "wrong":
        return str(side["wrong"][pick % len(side["wrong"])])
    if kind == "rude":
        return RUDE[lang][pick % len(RUDE[lang])]
    if kind == "evasive":
        return EVASIVE[lang][pick % len(EVASIVE[lang])]
    if kind == "long":
        return PADDING[lang].format(side["answer"])
    return str(intent["zh" if lang == "en" else "en"]["answer"])


def write_starter(directory: Path) -> dict[str, int]:
    """Write the data set's files into a folder; returns the number of rows of each."""
    seen = [intent for intent in intents() if not intent.get("held_out")]
    unseen = [intent for intent in intents() if intent.get("held_out")]
    files = {
        "text.jsonl": list(_text(seen)),
        "demos.jsonl": list(_demos(seen)),
        "pairs.jsonl": list(_pairs(seen, "questions")),
        "prompts.jsonl": list(_prompts(seen, "questions")),
        "held_out_pairs.jsonl": [*_pairs(seen, "held_out"), *_pairs(unseen, "held_out")],
        "held_out_prompts.jsonl": list(_prompts(seen, "held_out")),
        "new_intents_prompts.jsonl": list(_prompts(unseen, "held_out")),
    }
    for name, rows in files.items():
        write_jsonl(directory / name, rows)
    return {name: len(rows) for name, rows in files.items()}


def _sides(chosen: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str]]:
    for intent in chosen:
        for lang in LANGUAGES:
            yield intent, lang


def _text(chosen: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The shop's own pages: every answer below a question, as running text."""
    for intent, lang in _sides(chosen):
        side = intent[lang]
        for question in side["questions"]:
            yield {"text": f"{question}\n{side['answer']}"}


def _demos(chosen: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for intent, lang in _sides(chosen):
        for i, question in enumerate(intent[lang]["questions"]):
            draw = derive(0, "demos", intent["id"], lang, i)
            bad = draw % BAD_SHARE == 0
            answer = (
                bad_answer(intent, lang, KINDS[draw // 7 % len(KINDS)], draw // 64)
                if bad
                else intent[lang]["answer"]
            )
            yield {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            }


def _pairs(chosen: list[dict[str, Any]], which: str) -> Iterator[dict[str, Any]]:
    """For each question the right answer against a worse one; every kind comes up equally often."""
    for number, (intent, lang) in enumerate(_sides(chosen)):
        for i, question in enumerate(intent[lang][which]):
            kind = KINDS[(number // 2 + i) % len(KINDS)]
            rejected = bad_answer(intent, lang, kind, derive(0, "pairs", intent["id"], i))
            yield {"prompt": question, "chosen": intent[lang]["answer"], "rejected": rejected}


def _prompts(chosen: list[dict[str, Any]], which: str) -> Iterator[dict[str, Any]]:
    for intent, lang in _sides(chosen):
        side = intent[lang]
        meta = {"intent": intent["id"], "topic": intent["topic"], "lang": lang, "facts": side["facts"]}
        for question in side[which]:
            yield {"prompt": question, "answer": side["answer"], "meta": meta}
