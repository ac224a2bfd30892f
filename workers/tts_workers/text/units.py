"""Units of measure as they are written, and how each language says them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Unit:
    """How a unit is said: in Chinese, and in English for one and for many."""

    zh: str
    singular: str
    plural: str


def _unit(zh: str, singular: str, plural: str | None = None) -> Unit:
    return Unit(zh, singular, plural or f"{singular}s")


_LENGTHS: Final = {
    "nm": _unit("纳米", "nanometer"),
    "μm": _unit("微米", "micrometer"),
    "um": _unit("微米", "micrometer"),
    "mm": _unit("毫米", "millimeter"),
    "cm": _unit("厘米", "centimeter"),
    "dm": _unit("分米", "decimeter"),
    "m": _unit("米", "meter"),
    "km": _unit("公里", "kilometer"),
    "KM": _unit("公里", "kilometer"),
    "ft": _unit("英尺", "foot", "feet"),
    "yd": _unit("码", "yard"),
    "mi": _unit("英里", "mile"),
}
#: ``m2`` only beside a number: ``50m2`` is an area, ``M2`` is a code.
_AREAS: Final = {
    f"{name}{mark}": Unit(f"{power}{unit.zh}", f"{word} {unit.singular}", f"{word} {unit.plural}")
    for name, unit in _LENGTHS.items()
    for mark, power, word in (
        ("²", "平方", "square"),
        ("2", "平方", "square"),
        ("³", "立方", "cubic"),
        ("3", "立方", "cubic"),
    )
}
_MASSES: Final = {
    "ng": _unit("纳克", "nanogram"),
    "μg": _unit("微克", "microgram"),
    "ug": _unit("微克", "microgram"),
    "mcg": _unit("微克", "microgram"),
    "mg": _unit("毫克", "milligram"),
    "g": _unit("克", "gram"),
    "kg": _unit("千克", "kilogram"),
    "Kg": _unit("千克", "kilogram"),
    "KG": _unit("千克", "kilogram"),
    "t": _unit("吨", "ton"),
    "lb": _unit("磅", "pound"),
    "lbs": _unit("磅", "pound"),
    "oz": _unit("盎司", "ounce"),
    "mmol": _unit("毫摩尔", "millimole"),
    "μmol": _unit("微摩尔", "micromole"),
    "umol": _unit("微摩尔", "micromole"),
    "mol": _unit("摩尔", "mole"),
    "IU": _unit("国际单位", "international unit"),
}
_VOLUMES: Final = {
    "μl": _unit("微升", "microliter"),
    "μL": _unit("微升", "microliter"),
    "ml": _unit("毫升", "milliliter"),
    "mL": _unit("毫升", "milliliter"),
    "ML": _unit("毫升", "milliliter"),
    "cc": _unit("毫升", "cubic centimeter"),
    "dl": _unit("分升", "deciliter"),
    "dL": _unit("分升", "deciliter"),
    "l": _unit("升", "liter"),
    "L": _unit("升", "liter"),
    "ha": _unit("公顷", "hectare"),
}
_TIMES: Final = {
    "ns": _unit("纳秒", "nanosecond"),
    "μs": _unit("微秒", "microsecond"),
    "ms": _unit("毫秒", "millisecond"),
    "s": _unit("秒", "second"),
    "sec": _unit("秒", "second"),
    "min": _unit("分钟", "minute"),
    "mins": _unit("分钟", "minute"),
    "h": _unit("小时", "hour"),
    "hr": _unit("小时", "hour"),
    "hrs": _unit("小时", "hour"),
    "d": _unit("天", "day"),
}
_PHYSICS: Final = {
    "°C": Unit("摄氏度", "degree Celsius", "degrees Celsius"),
    "°F": Unit("华氏度", "degree Fahrenheit", "degrees Fahrenheit"),
    "°": _unit("度", "degree"),
    "Hz": _unit("赫兹", "hertz", "hertz"),
    "kHz": _unit("千赫兹", "kilohertz", "kilohertz"),
    "MHz": _unit("兆赫兹", "megahertz", "megahertz"),
    "GHz": _unit("吉赫兹", "gigahertz", "gigahertz"),
    "V": _unit("伏", "volt"),
    "mV": _unit("毫伏", "millivolt"),
    "kV": _unit("千伏", "kilovolt"),
    "KV": _unit("千伏", "kilovolt"),
    "W": _unit("瓦", "watt"),
    "kW": _unit("千瓦", "kilowatt"),
    "KW": _unit("千瓦", "kilowatt"),
    "MW": _unit("兆瓦", "megawatt"),
    "GW": _unit("吉瓦", "gigawatt"),
    "kWh": _unit("千瓦时", "kilowatt hour"),
    "mA": _unit("毫安", "milliampere"),
    "mAh": _unit("毫安时", "milliampere hour"),
    "Pa": _unit("帕", "pascal"),
    "kPa": _unit("千帕", "kilopascal"),
    "MPa": _unit("兆帕", "megapascal"),
    "hPa": _unit("百帕", "hectopascal"),
    "mmHg": Unit("毫米汞柱", "millimeter of mercury", "millimeters of mercury"),
    "dB": _unit("分贝", "decibel"),
    "cal": _unit("卡", "calorie"),
    "kcal": _unit("千卡", "kilocalorie"),
    "kJ": _unit("千焦", "kilojoule"),
    "Ω": _unit("欧姆", "ohm"),
    "mSv": _unit("毫西弗", "millisievert"),
}
_RATES: Final = {
    "m/s²": Unit("米每二次方秒", "meter per second squared", "meters per second squared"),
    "m/s2": Unit("米每二次方秒", "meter per second squared", "meters per second squared"),
    "mph": Unit("英里每小时", "mile per hour", "miles per hour"),
    "kph": Unit("公里每小时", "kilometer per hour", "kilometers per hour"),
    "kmh": Unit("公里每小时", "kilometer per hour", "kilometers per hour"),
    "rpm": Unit("转每分钟", "revolution per minute", "revolutions per minute"),
    "bpm": Unit("次每分钟", "beat per minute", "beats per minute"),
    "bps": Unit("比特每秒", "bit per second", "bits per second"),
    "kbps": Unit("千比特每秒", "kilobit per second", "kilobits per second"),
    "Kbps": Unit("千比特每秒", "kilobit per second", "kilobits per second"),
    "Mbps": Unit("兆比特每秒", "megabit per second", "megabits per second"),
    "Gbps": Unit("吉比特每秒", "gigabit per second", "gigabits per second"),
    "ppm": Unit("ppm", "part per million", "parts per million"),
    "fps": Unit("帧每秒", "frame per second", "frames per second"),
}
#: Chinese speakers say the letters of these.
_STORAGE: Final = {
    "KB": _unit("KB", "kilobyte"),
    "kB": _unit("KB", "kilobyte"),
    "MB": _unit("MB", "megabyte"),
    "GB": _unit("GB", "gigabyte"),
    "TB": _unit("TB", "terabyte"),
    "PB": _unit("PB", "petabyte"),
    "GiB": _unit("GB", "gibibyte"),
    "MiB": _unit("MB", "mebibyte"),
}
_SIMPLE: Final = {
    **_LENGTHS, **_AREAS, **_MASSES, **_VOLUMES, **_TIMES, **_PHYSICS, **_RATES, **_STORAGE,
}  # fmt: skip
#: What may stand under the slash without being a unit of its own.
_PER: Final = {
    "day": Unit("天", "day", "days"),
    "month": Unit("月", "month", "months"),
    "year": Unit("年", "year", "years"),
    "hour": Unit("小时", "hour", "hours"),
    "person": Unit("人", "person", "people"),
    "week": Unit("周", "week", "weeks"),
    "night": Unit("晚", "night", "nights"),
}

UNIT_WORDS: Final = frozenset(_SIMPLE)
_NAMES: Final = "|".join(re.escape(name) for name in sorted(_SIMPLE, key=len, reverse=True))
_PER_NAMES: Final = "|".join(sorted(_PER, key=len, reverse=True))
#: A unit, simple or a ratio of two, not followed by a letter or digit that makes it a code.
UNIT_PATTERN: Final = (
    rf"(?:(?:{_NAMES})(?:/(?:{_PER_NAMES}|{_NAMES})(?![A-Za-z0-9²³]))?(?![A-Za-z0-9²³]))"
)


def unit_of(written: str) -> Unit:
    """Return the unit that a match of `UNIT_PATTERN` names; a ratio is put together."""
    if written in _SIMPLE:
        return _SIMPLE[written]
    name, _, divisor = written.partition("/")
    unit = _SIMPLE[name]
    per = _PER.get(divisor) or _SIMPLE[divisor]
    return Unit(
        f"{unit.zh}每{per.zh}", f"{unit.singular} per {per.singular}",
        f"{unit.plural} per {per.singular}",
    )  # fmt: skip
