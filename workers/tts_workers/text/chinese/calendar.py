"""Dates and times of day in Chinese."""

from __future__ import annotations

import re
from typing import Final

from tts_workers.text.chinese.numbers import cardinal, number, spell
from tts_workers.text.rules import Rule, Start

_YEAR: Final = r"(?:1[0-9]|20)[0-9]{2}"
_MONTH: Final = r"(?:1[0-2]|0?[1-9])"
_DAY: Final = r"(?:3[01]|[12][0-9]|0?[1-9])"
_TO: Final = r"\s?[-–—~至到]\s?"

_DATE: Final = re.compile(
    rf"(?P<year>{_YEAR})\s?(?P<mark>[-/.年])\s?(?P<month>{_MONTH})"
    rf"(?:(?P=mark)|(?<=[0-9])\s?月)\s?(?P<day>{_DAY})(?![0-9]|[-/][0-9]|\.[0-9])(?:\s?[日号])?(?:T(?=[0-9]))?"
)
_YEAR_MONTH: Final = re.compile(
    r"(?P<year>(?:19|20)[0-9]{2})[-/](?P<month>0[1-9]|1[0-2])(?![-/.:%]?[0-9])(?:\s?月)?"
)
_YEARS: Final = re.compile(
    rf"(?P<first>{_YEAR})(?:\s?年)?{_TO}(?P<last>{_YEAR})(?![0-9]|[-.,/:%][0-9])"
    r"(?P<suffix>\s?(?:学年|财年|赛季|年))?(?!\s?[元个人名条件台%])"
)
_LONE_YEAR: Final = re.compile(rf"(?P<year>{_YEAR})\s?年(?!历史|以上|以内|之久)")
_AN_AMOUNT_BEFORE: Final = re.compile(r"[约近达超满过隔第]$")
_SHORT_YEAR: Final = re.compile(rf"(?P<year>[0-9]{{2}})\s?(?=年\s?(?:{_MONTH}\s?月|[春夏秋冬]))")
_CLASS_OF: Final = re.compile(r"(?P<year>(?:19|20)[0-9]{2})(?=[届级])")
_GENERATION: Final = re.compile(r"(?P<year>[05-9][05])(?=后(?![来面天期续方门勤]))")
_MONTH_DAY: Final = re.compile(
    rf"(?P<month>{_MONTH})\s?月\s?(?P<day>{_DAY})(?![0-9])\s?(?P<suffix>[日号]?)"
    rf"(?:{_TO}(?:(?P<month2>{_MONTH})\s?月\s?)?(?P<day2>{_DAY})\s?(?P<suffix2>[日号]))?"
)
_MONTH_OR_DAY: Final = re.compile(
    rf"(?P<first>[0-9]{{1,2}})(?:{_TO}(?P<last>[0-9]{{1,2}}))?\s?(?P<suffix>[月日号])"
)

_CLOCK: Final = r"(?:2[0-4]|[01]?[0-9])[:：][0-5][0-9](?:[:：][0-5][0-9])?"
_NOON: Final = r"(?:\s?[aApP]\.?\s?[mM](?:\.|(?![A-Za-z0-9])))"
_TIME: Final = re.compile(
    rf"(?P<first>{_CLOCK})(?![0-9]|[:：][0-9])(?P<noon>{_NOON})?"
    rf"(?:{_TO}(?P<last>{_CLOCK})(?![0-9]|[:：][0-9])(?P<noon2>{_NOON})?)?\s?分?(?![钟之])"
)
_TIME_ON_THE_HOUR: Final = re.compile(rf"(?P<hour>1[0-2]|0?[1-9])(?P<noon>{_NOON})")
_PART_OF_DAY_BEFORE: Final = re.compile(r"(?:午|晨|早上?|晚上?|夜里?)\s?$")
_A_RATIO_BEFORE: Final = re.compile(r"(?:比分|比例|配比|以|比)\s?(?:为|是|[:：])?\s?$")
_HOURS_OF: Final = re.compile(
    rf"(?P<first>[0-9]{{1,2}}){_TO}(?P<last>[0-9]{{1,2}})(?P<suffix>点(?!五|[0-9]{{3}}))"
)
_OCLOCK: Final = re.compile(
    r"(?P<hour>2[0-4]|[01]?[0-9])\s?(?P<mark>[点时])\s?(?P<minute>[0-5][0-9])(?P<suffix>\s?分?)(?![0-9钟])"
)


def _to(match: re.Match[str]) -> str:
    """Return the word between two ends: what was written, else 到 for a dash."""
    return "至" if "至" in match[0] else "到"


def _month(digits: str) -> str:
    return cardinal(digits.lstrip("0") or "0")


def _read_date(match: re.Match[str]) -> str | None:
    if match["mark"] == "年" and "月" not in match[0]:
        return None
    return (
        f"{spell(match['year'])}年{_month(match['month'])}月{_month(match['day'])}"
        f"{'号' if match[0].endswith('号') else '日'}"
    )


def _read_year_month(match: re.Match[str]) -> str:
    return f"{spell(match['year'])}年{_month(match['month'])}月"


def _read_years(match: re.Match[str]) -> str | None:
    if match["first"] >= match["last"]:
        return None
    suffix = (match["suffix"] or "").strip()
    if not suffix and (match["first"] < "1800" or match["last"] > "2099"):
        return None
    return f"{spell(match['first'])}{_to(match)}{spell(match['last'])}{suffix}"


def _read_lone_year(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 1) : match.start()]
    if match["year"] == "1000" or _AN_AMOUNT_BEFORE.search(before):
        return None
    return f"{spell(match['year'])}年"


def _read_month_day(match: re.Match[str]) -> str:
    words = f"{_month(match['month'])}月{_month(match['day'])}{match['suffix'] or '日'}"
    if match["day2"]:
        month = f"{_month(match['month2'])}月" if match["month2"] else ""
        words += f"{_to(match)}{month}{_month(match['day2'])}{match['suffix2']}"
    return words


def _read_month_or_day(match: re.Match[str]) -> str | None:
    if match["suffix"] == "号" and match[0].startswith("0"):
        return None  # a queue number, not a date
    last = f"{_to(match)}{_month(match['last'])}" if match["last"] else ""
    return f"{_month(match['first'])}{last}{match['suffix']}"


def _hour(digits: str) -> str:
    return number(digits.lstrip("0") or "0", pairs=True)


def _minute(digits: str) -> str:
    return f"零{number(digits[1])}" if digits[0] == "0" else cardinal(digits)


def _clock(written: str, noon: str | None, *, is_told: bool) -> str:
    """Read ``14:30:15``; ``noon`` is an English a.m. or p.m., unless Chinese has said it before."""
    hour, minute, *second = re.split("[:：]", written)
    words = "" if is_told or not noon else _part_of_day(int(hour), noon)
    words += f"{_hour(hour)}点"
    if minute != "00":
        words += f"{_minute(minute)}分"
    if second and second[0] != "00":
        words += f"{'' if minute != '00' else '零分'}{_minute(second[0])}秒"
    return words


def _part_of_day(hour: int, noon: str) -> str:
    if noon.strip().lower().startswith("a"):
        return "凌晨" if hour == 12 or hour < 5 else "上午"
    if hour == 12:
        return "中午"
    return "下午" if hour < 6 else "晚上"


def _is_told(match: re.Match[str]) -> bool:
    before = match.string[max(0, match.start() - 3) : match.start()]
    return _PART_OF_DAY_BEFORE.search(before) is not None


def _read_time(match: re.Match[str]) -> str | None:
    before = match.string[max(0, match.start() - 6) : match.start()]
    if _A_RATIO_BEFORE.search(before):
        return None
    is_told = _is_told(match)
    words = _clock(match["first"], match["noon"], is_told=is_told)
    if match["last"]:
        words += f"{_to(match)}{_clock(match['last'], match['noon2'], is_told=is_told)}"
    return words


def _read_time_on_the_hour(match: re.Match[str]) -> str:
    part = "" if _is_told(match) else _part_of_day(int(match["hour"]), match["noon"])
    return f"{part}{_hour(match['hour'])}点"


def _read_hours(match: re.Match[str]) -> str:
    return f"{_hour(match['first'])}{_to(match)}{_hour(match['last'])}点"


def _read_oclock(match: re.Match[str]) -> str:
    if match["minute"] == "00":
        return f"{_hour(match['hour'])}{match['mark']}"
    return f"{_hour(match['hour'])}{match['mark']}{_minute(match['minute'])}分"


RULES: Final = (
    Rule("date", Start.DIGIT, _DATE, _read_date),
    Rule("years", Start.DIGIT, _YEARS, _read_years),
    Rule("year and month", Start.DIGIT, _YEAR_MONTH, _read_year_month),
    Rule("year", Start.DIGIT, _LONE_YEAR, _read_lone_year),
    Rule("short year", Start.DIGIT, _SHORT_YEAR, lambda match: spell(match["year"])),
    Rule("class of a year", Start.DIGIT, _CLASS_OF, lambda match: spell(match["year"])),
    Rule("generation", Start.DIGIT, _GENERATION, lambda match: spell(match["year"])),
    Rule("month and day", Start.DIGIT, _MONTH_DAY, _read_month_day),
    Rule("month or day", Start.DIGIT, _MONTH_OR_DAY, _read_month_or_day),
    Rule("time", Start.DIGIT, _TIME, _read_time),
    Rule("hour with a.m. or p.m.", Start.DIGIT, _TIME_ON_THE_HOUR, _read_time_on_the_hour),
    Rule("hours", Start.DIGIT, _HOURS_OF, _read_hours),
    Rule("o'clock", Start.DIGIT, _OCLOCK, _read_oclock),
)
