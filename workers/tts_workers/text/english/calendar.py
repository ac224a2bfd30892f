"""Dates and times of day in English."""

from __future__ import annotations

import re
from typing import Final

from tts_workers.text.english.numbers import cardinal, ordinal, plural, year
from tts_workers.text.rules import Rule, Start

_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_BY_PREFIX: Final = {name[:3]: name for name in _MONTHS}
_MONTH_NAME: Final = (
    r"(?P<month>(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?"
    r"|Sept?(?:ember)?|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?)"
)
_DAY: Final = r"(?:3[01]|[12][0-9]|0?[1-9])"
_YEAR: Final = r"(?:1[0-9]|20)[0-9]{2}"
_SUFFIX: Final = r"(?:st|nd|rd|th)"
_TO: Final = r"\s?[-–—~]\s?"

_MONTH_DAY: Final = re.compile(
    rf"{_MONTH_NAME}\s(?P<day>{_DAY}){_SUFFIX}?(?![0-9:]|[.,][0-9]|[A-Za-z])"
    rf"(?:{_TO}(?P<last>{_DAY}){_SUFFIX}?(?![0-9:]))?"
    rf"(?:,?\s(?P<year>{_YEAR})(?![0-9]|[.,:][0-9]))?"
)
_DAY_MONTH: Final = re.compile(
    rf"(?P<day>{_DAY}){_SUFFIX}?(?:{_TO}(?P<last>{_DAY}){_SUFFIX}?)?\s(?:of\s)?{_MONTH_NAME}"
    rf"(?:,?\s(?P<year>{_YEAR})(?![0-9]|[.,:][0-9]))?"
)
_MONTH_YEAR: Final = re.compile(rf"{_MONTH_NAME}\s(?P<year>{_YEAR})(?![0-9]|[.,:][0-9])")
_ISO: Final = re.compile(
    rf"(?P<year>{_YEAR})(?P<mark>[-/.])(?P<month>1[0-2]|0?[1-9])(?P=mark)(?P<day>{_DAY})"
    r"(?![0-9]|[-/][0-9]|\.[0-9])(?:T(?=[0-9]))?"
)
_AMERICAN: Final = re.compile(
    rf"(?P<month>1[0-2]|0?[1-9])/(?P<day>{_DAY})/(?P<year>{_YEAR})(?![0-9]|/[0-9])"
)
_YEARS: Final = re.compile(
    rf"(?P<first>{_YEAR}){_TO}(?P<last>{_YEAR}|[0-9]{{2}})(?![0-9]|[-.,/:%][0-9]|[A-Za-z%])"
)
_DECADE: Final = re.compile(rf"['’]?(?P<decade>{_YEAR[:-5]}[0-9]0|[1-9]0)['’]?s(?![A-Za-z0-9])")
_LONE_YEAR: Final = re.compile(
    rf"(?P<year>{_YEAR})(?![0-9%]|[-.,/:][0-9]|\s?[-–—~]\s?[0-9]"
    r"|\s(?:people|men|women|children|percent|degrees|million|thousand|(?!(?:was|is|has|his|this|as"
    r"|its|us|always|Olympics|Games|series|season|Paralympics)\b)[A-Za-z]{2,}s\b))"
)
_YEAR_CUE: Final = re.compile(
    r"\b(?:[Ii]n|[Ss]ince|[Yy]ear|[Ff]rom|[Uu]ntil|[Tt]ill|[Bb]efore|[Aa]fter|[Dd]uring|[Cc]irca"
    r"|[Bb]y|[Tt]o|[Tt]hrough|[Aa]nd|[Ee]arly|[Ll]ate|[Mm]id|[Ss]pring|[Ss]ummer|[Aa]utumn|[Ff]all|[Ww]inter|[Tt]he|©"
    r"|(?:January|February|March|April|May|June|July|August|September|October|November|December),?"
    r")\s?(?:of\s)?$"
)
_DIGITS_THEN_A_YEAR: Final = 1900

_CLOCK: Final = r"(?:2[0-4]|[01]?[0-9]):[0-5][0-9](?::[0-5][0-9])?"
_NOON: Final = r"(?:\s?[aApP](?:\.\s?[mM]\.|[mM](?![A-Za-z0-9])))"
_TIME: Final = re.compile(
    rf"(?P<first>{_CLOCK})(?![0-9]|:[0-9])(?P<noon>{_NOON})?"
    rf"(?:(?:{_TO}|\sto\s)(?P<last>{_CLOCK})(?![0-9]|:[0-9])(?P<noon2>{_NOON})?)?"
)
_HOUR: Final = re.compile(
    rf"(?P<first>1[0-2]|0?[1-9])(?P<noon>{_NOON})?"
    rf"(?:{_TO}(?P<last>1[0-2]|0?[1-9])(?P<noon2>{_NOON}))?"
)


def _full_name(written: str) -> str:
    return _BY_PREFIX[written[:3]]


def _dated(month: str, day: str, last: str | None, written_year: str | None) -> str:
    words = f"{month} {ordinal(day)}"
    if last:
        words += f" to {ordinal(last)}"
    return f"{words}, {year(written_year)}" if written_year else words


def _read_month_day(match: re.Match[str]) -> str:
    return _dated(_full_name(match["month"]), match["day"], match["last"], match["year"])


def _read_day_month(match: re.Match[str]) -> str:
    before = match.string[max(0, match.start() - 4) : match.start()].lower()
    words = "" if before == "the " else "the "
    words += ordinal(match["day"])
    if match["last"]:
        words += f" to the {ordinal(match['last'])}"
    words += f" of {_full_name(match['month'])}"
    return f"{words}, {year(match['year'])}" if match["year"] else words + _full_stop(match)


def _read_month_year(match: re.Match[str]) -> str:
    return f"{_full_name(match['month'])} {year(match['year'])}"


def _read_numeric(match: re.Match[str]) -> str:
    return _dated(_MONTHS[int(match["month"]) - 1], match["day"], None, match["year"])


def _read_years(match: re.Match[str]) -> str | None:
    first, last = match["first"], match["last"]
    if len(last) == 2:
        # 2024-25 is a season; 1200-50 is more likely a subtraction or a code.
        if int(first) < _DIGITS_THEN_A_YEAR or int(last) != (int(first) + 1) % 100:
            return None
        return f"{year(first)} to {cardinal(last.lstrip('0') or '0')}"
    if first >= last or int(first) < 1500:
        return None
    return f"{year(first)} to {year(last)}"


def _read_decade(match: re.Match[str]) -> str:
    decade = match["decade"]
    return plural(year(decade) if len(decade) == 4 else cardinal(decade))


def _read_clock(written: str, noon: str | None) -> str:
    hour, minute, *second = written.split(":")
    hour_words = cardinal(hour.lstrip("0") or "0")
    if minute != "00":
        words = f"{hour_words} {_minute(minute)}"
    elif noon:
        words = hour_words
    else:
        words = f"{hour_words} o'clock" if 1 <= int(hour) <= 12 else f"{hour_words} hundred"
    if second and second[0] != "00":
        words += f" and {cardinal(second[0].lstrip('0'))} seconds"
    return words + _noon_words(noon)


def _minute(digits: str) -> str:
    return f"oh {cardinal(digits[1])}" if digits[0] == "0" else cardinal(digits)


def _noon_words(noon: str | None) -> str:
    if not noon:
        return ""
    return " AM" if noon.strip().lower().startswith("a") else " PM"


def _read_time(match: re.Match[str]) -> str:
    words = _read_clock(match["first"], match["noon"])
    if match["last"]:
        words += f" to {_read_clock(match['last'], match['noon2'])}"
    return words + _full_stop(match)


def _read_hour(match: re.Match[str]) -> str | None:
    noon, noon2 = match["noon"], match["noon2"]
    if not (noon or noon2):
        return None
    words = cardinal(match["first"].lstrip("0")) + _noon_words(noon)
    if match["last"]:
        words += f" to {cardinal(match['last'].lstrip('0'))}{_noon_words(noon2)}"
    return words + _full_stop(match)


def _full_stop(match: re.Match[str]) -> str:
    """Give back the sentence end that the dot of ``p.m.`` or ``Fri.`` may have been too."""
    after = match.string[match.end() : match.end() + 2]
    is_end = not after.strip() or (after[0] == " " and after[1].isupper())
    return "." if match[0].endswith(".") and is_end else ""


_DAYS: Final = (
    "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
)  # fmt: skip
_DAY_NAME: Final = r"(?:Mon|Tues?|Wed|Thu(?:rs?)?|Fri|Sat|Sun)(?:day|sday|nesday|urday|rsday)?\b\.?"
_DAYS_OF_WEEK: Final = re.compile(rf"(?P<first>{_DAY_NAME}){_TO}(?P<last>{_DAY_NAME})")


def _read_days_of_week(match: re.Match[str]) -> str:
    names = {name[:3]: name for name in _DAYS}
    words = f"{names[match['first'][:3]]} to {names[match['last'][:3]]}"
    return words + _full_stop(match)


#: Month names are English wherever they stand, so these rules serve Chinese text too.
ENGLISH_DATES: Final = (
    Rule("month and day", Start.LETTER, _MONTH_DAY, _read_month_day),
    Rule("day and month", Start.DIGIT, _DAY_MONTH, _read_day_month),
    Rule("month and year", Start.LETTER, _MONTH_YEAR, _read_month_year),
    Rule("days of the week", Start.LETTER, _DAYS_OF_WEEK, _read_days_of_week),
)
RULES: Final = (
    *ENGLISH_DATES,
    Rule("numeric date", Start.DIGIT, _ISO, _read_numeric),
    Rule("American date", Start.DIGIT, _AMERICAN, _read_numeric),
    Rule("years", Start.DIGIT, _YEARS, _read_years),
    Rule("decade", Start.DIGIT | Start.SYMBOL, _DECADE, _read_decade),
    Rule("time", Start.DIGIT, _TIME, _read_time),
    Rule("hour", Start.DIGIT, _HOUR, _read_hour),
    Rule("year", Start.DIGIT, _LONE_YEAR, lambda match: year(match["year"]), cue=_YEAR_CUE),
)
