"""What the figures mean, in sentences: the first thing a reader sees, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Tone = Literal["good", "bad", "open"]

LENGTH_RATIO = 1.25
"""Answers that grew by this factor while the reward rose are pointed out: reward models like length."""
FEWEST_FINISHED = 0.9
"""Below this share of answers that come to their end, something is wrong with the end of turn."""


class Finding(NamedTuple):
    """One sentence and what it says of the run; open means that nothing could be shown."""

    tone: Tone
    en: str
    zh: str


def headline(found: Mapping[str, Any]) -> Finding:
    """The run in one line."""
    if rl := found.get("rl"):
        before, after, tone = rl["before"], rl["after"], tone_of(rl["reward_gain_ci"])
        right = found.get("correctness")
        return _compared(after, before, tone, tone_of(right["ci"]) if right else None)
    if found.get("reward_model"):
        return Finding(
            "open", "A reward model was trained; no models were compared", "训练了奖励模型，未比较模型"
        )
    return Finding("open", "The run is done; nothing was compared", "运行已完成，没有做比较")


def _compared(after: str, before: str, reward: Tone, right: Tone | None) -> Finding:
    """What reward and correctness say together: more reward for fewer right answers is no success."""
    if reward == "good":
        tails: dict[Tone | None, tuple[Tone, str, str]] = {
            "good": ("good", " and answers more questions correctly", "，答对的问题也更多"),
            "open": ("good", "; correctness did not measurably change", "；正确率没有可测的变化"),
            "bad": ("bad", " but answers fewer questions correctly", "，但答对的问题变少了"),
            None: ("good", "", ""),
        }
        tone, en, zh = tails[right]
        return Finding(
            tone, f"{after} earns more reward than {before}{en}", f"{after} 的奖励高于 {before}{zh}"
        )
    if reward == "bad":
        return Finding("bad", f"{after} earns less reward than {before}", f"{after} 的奖励低于 {before}")
    tone = right or "open"
    tail = {"good": ("more", "更多"), "bad": ("fewer", "更少")}.get(tone)
    en, zh = (
        (f", but answers {tail[0]} questions correctly", f"，但答对的问题{tail[1]}") if tail else ("", "")
    )
    return Finding(
        tone,
        f"{after} cannot be told from {before} by reward{en}",
        f"{after} 与 {before} 的奖励分不出高下{zh}",
    )


def verdict(found: Mapping[str, Any]) -> list[Finding]:
    """The run in sentences: what was gained and how sure that is, then what should make a reader wary."""
    said = [*_gain(found), *_correct(found), *_judge(found), *_warnings(found)]
    return said or [
        Finding(
            "open",
            "Nothing was compared in this run: add a stage of kind evaluate to the recipe.",
            "本次运行没有做比较：请在配方里加入一个 kind 为 evaluate 的阶段。",
        )
    ]


def _gain(found: Mapping[str, Any]) -> list[Finding]:
    if not (rl := found.get("rl")):
        return []
    tone, (low, high) = tone_of(rl["reward_gain_ci"]), rl["reward_gain_ci"]
    words = {"good": ("gained", "提高了"), "bad": ("lost", "降低了"), "open": ("changed by", "变化为")}[tone]
    numbers = f"{number(rl['reward_before'])} → {number(rl['reward_after'])}"
    size = signed(rl["reward_gain"]) if tone == "open" else number(abs(rl["reward_gain"]))
    interval = f"{signed(low)} … {signed(high)}"
    open_en = " The interval holds 0: nothing is shown either way." if tone == "open" else ""
    open_zh = "区间包含 0：两方面都不能下结论。" if tone == "open" else ""
    return [
        Finding(
            tone,
            f"On {rl['prompts']} held-out prompts {rl['after']} {words[0]} {size} of mean reward over "
            f"{rl['before']} ({numbers}; 95 % interval of the difference {interval}), "
            f"{number(rl['kl'])} nats an answer away from it.{open_en}",
            f"在 {rl['prompts']} 个留出的提问上，{rl['after']} 的平均奖励比 {rl['before']} {words[1]} {size}"
            f"（{numbers}；差值的 95% 区间 {interval}），KL 为每个回答 {number(rl['kl'])} 奈特。{open_zh}",
        )
    ]


def _correct(found: Mapping[str, Any]) -> list[Finding]:
    if not (right := found.get("correctness")):
        return []
    low, high = right["ci"]
    change = f"{percent(right['sft'])} → {percent(right['rl'])}"
    interval = f"{points(low)} … {points(high)}"
    return [
        Finding(
            tone_of(right["ci"]),
            f"Answers found correct by rule: {change} (difference {interval} percentage points).",
            f"按规则核对的正确率：{change}（差值 {interval} 个百分点）。",
        )
    ]


def _judge(found: Mapping[str, Any]) -> list[Finding]:
    if not (judge := found.get("reward_model")):
        return []
    low, high = judge["accuracy_ci"]
    rule = max(judge["longer_is_better"], 1 - judge["longer_is_better"])
    good = low > max(0.5, rule)
    right, interval = percent(judge["accuracy"]), between(low, high)
    return [
        Finding(
            "good" if good else "open",
            f"The reward model picks the better of two held-out answers {right} of the time (95 % interval "
            f"{interval}, {judge['pairs']} pairs)"
            + (f"; length alone would reach {percent(rule)}." if good
               else f", which is not clearly above the {percent(rule)} that length alone reaches."),
            f"奖励模型在留出的偏好对上选对的比例为 {right}（95% 区间 {interval}，{judge['pairs']} 对）"
            + (f"；只看长度可达 {percent(rule)}。" if good else f"，不明显高于只看长度的 {percent(rule)}。"),
        )
    ]  # fmt: skip


def _warnings(found: Mapping[str, Any]) -> list[Finding]:
    said: list[Finding] = []
    if not (rl := found.get("rl")):
        return said
    before, after = rl["length_before"], rl["length_after"]
    if before and after / before > LENGTH_RATIO and rl["length_ci"][0] > 0 and rl["reward_gain"] > 0:
        bias = (found.get("reward_model") or {}).get("length_bias")
        known = "" if bias is None else f" (its correlation with length is {signed(bias)})"
        known_zh = "" if bias is None else f"（得分与长度的相关为 {signed(bias)}）"
        said.append(
            Finding(
                "open",
                f"Answers grew from {number(before)} to {number(after)} tokens: part of the reward may be "
                f"length{known}.",
                f"回答从 {number(before)} 增长到 {number(after)} 个词元：部分奖励可能只来自长度{known_zh}。",
            )
        )
    answers: Mapping[str, Mapping[str, float]] = next(
        (e["answers"] for e in reversed(list(found.get("evaluations", {}).values())) if "rl" in e), {}
    )
    ended = answers.get(rl["after"], {}).get("finished", 1.0)
    if ended < FEWEST_FINISHED:
        said.append(
            Finding(
                "bad",
                f"Only {percent(ended)} of the answers of {rl['after']} come to their end before the length "
                "limit: raise sampling.max_tokens, or train SFT longer.",
                f"{rl['after']} 只有 {percent(ended)} 的回答在长度上限内结束：请调大 sampling.max_tokens，"
                "或延长 SFT。",
            )
        )
    return said


def tone_of(interval: tuple[float, float] | list[float]) -> Tone:
    """What an interval of a gain says."""
    low, high = interval
    return "good" if low > 0 else "bad" if high < 0 else "open"


def number(value: float | None) -> str:
    """Three significant digits, a true minus sign, – for nothing."""
    if value is None:
        return "–"
    text = str(value) if isinstance(value, int) else f"{value:#.3g}".removesuffix(".")
    text = f"{value:,.0f}" if "e+" in text else text
    return text if "e" in text else text.replace("-", "−")


def signed(value: float | None) -> str:
    """The same with its sign."""
    return number(value) if value is None or value < 0 else "+" + number(value)


def percent(share: float | None) -> str:
    """A share in per cent."""
    return "–" if share is None else f"{100 * share:.1f} %"


def between(low: float, high: float) -> str:
    """An interval of a share in per cent."""
    return f"{100 * low:.1f} … {100 * high:.1f} %"


def points(share: float | None) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if share is None else f"{100 * share:+.1f}".replace("-", "−")
