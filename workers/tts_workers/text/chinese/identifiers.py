"""Digits that name something instead of counting it: telephone, card, room, route, version."""

from __future__ import annotations

import re
from typing import Final

from tts_workers.text.chinese.numbers import cardinal, dotted, spell
from tts_workers.text.rules import Rule, Start

_SEPARATOR: Final = r"[ -]?"
#: What shows that the digits before it were an amount after all.
_AMOUNT_AFTER: Final = (
    r"(?![0-9]|[.,:/~%‰][0-9]|\s?(?:[%‰°万亿千百]|元|块|个|位|人|名|台|部|家|次|笔|条|张|天|年|月|日|点"
    r"|分|秒|岁|米|公里|斤|公斤|克|吨|升|倍|件|小时|多|余|余?种|美元|欧元|英镑|日元|港元|余))"
)

_MOBILE: Final = re.compile(
    rf"(?P<country>\+?86{_SEPARATOR})?(?P<number>1[3-9][0-9]{_SEPARATOR}[0-9]{{4}}{_SEPARATOR}[0-9]{{4}})"
    r"(?![0-9]|[.,][0-9]|\s?[元万亿])"
)
_INTERNATIONAL: Final = re.compile(
    r"\+(?P<number>[1-9][0-9]{0,2}(?:[ -]?\(?[0-9]{1,4}\)?){2,5})(?![0-9])"
)
_LANDLINE: Final = re.compile(
    r"[(（]?(?P<area>0[1-9][0-9]{1,2})(?:[)）]\s?|[ -])(?P<number>[2-9][0-9]{2,3}[ -]?[0-9]{4})"
    r"(?:(?:-|转|\s?分机)(?P<extension>[0-9]{1,6}))?(?![0-9])"
)
_SERVICE: Final = re.compile(
    r"(?P<number>[48]00(?:-[0-9]{3}-[0-9]{4}|-[0-9]{4}-[0-9]{3}| [0-9]{3} [0-9]{4}|-?[0-9]{7}))"
    r"(?![0-9])"
)
_PUBLIC_SERVICE: Final = "(?:06|12|15|18|20|28|29|33|36|45|48|50|55|58|66|69|77|78|80|88|93|95|98)"
_HOTLINE: Final = re.compile(
    rf"(?<![第约近达])(?P<number>95[0-9]{{3}}|100(?:86|10|01)|123{_PUBLIC_SERVICE}){_AMOUNT_AFTER}"
)
_EMERGENCY: Final = re.compile(
    r"(?P<number>1(?:10|12|14|19|20|22))(?=\s?(?:急救|报警|火警|电话|热线|救护|指挥|调度|平台))"
)

_EMERGENCY_LIST: Final = re.compile(rf"(?P<number>1(?:10|12|14|19|20|22)){_AMOUNT_AFTER}")
_AFTER_AN_EMERGENCY: Final = re.compile(r"1(?:10|12|14|19|20|22)\s?(?:[、，,/]|或|和|及|以及)\s?$")
_COMMEMORATED: Final = re.compile(r"(?P<number>[0-9]{1,2}·[0-9]{1,2})(?![0-9])")
_UNIVERSITIES: Final = re.compile(r"(?P<number>985|211)(?=[/、和]|工程|高校|大学|院校)")
_CUED: Final = re.compile(rf"(?P<number>[0-9](?:[ -]?[0-9]){{2,40}}){_AMOUNT_AFTER}")
_CUE: Final = re.compile(
    r"(?:验证码|校验码|动态码|随机码|激活码|邀请码|取件码|取票码|取餐码|提货码|兑换码|识别码|密码|口令|尾号|末四位"
    r"|后四位|卡号|[账帐]号|[账帐]户|单号|编号|工号|学号|证号|身份证|号码|证件号|流水号|保单号|合同号|票号|批号"
    r"|序列号|代码|邮编|邮政编码|传真|分机|热线|电话|手机|座机|拨打|致电|请拨|请打|来电|呼叫|短信至|发送到|QQ|微信"
    r"|航班号?|车次|车牌号?|会议号|会议ID|单元|Room|room|ROOM|Rm\.|Suite|Flight|flight|code|PIN|房间|病房|教室|会议室|病历号|住院号|就诊号|门诊号|床号|房号|房间号)"
    r"(?:号码?|号)?\s?(?:后四位|末四位)?\s?(?:分别)?(?:是|为|到|[:：]|为[:：]|是[:：])?\s?[“\"「(（]?\s?$"
)

_ROOM: Final = re.compile(
    r"(?P<number>[0-9]{3,4})(?=\s?(?:室|房|病房|包间|包厢|会议室|教室|诊室|单元|寝室|宿舍|机房|号房|号会议室|号病房))"
)
_ROUTE: Final = re.compile(
    r"(?P<number>[0-9]{3,4})(?=\s?(?:路(?![0-9口])|次列车|次航班|国道|省道|次(?=[高动城列]|开往)))"
)
_LONG_FLAT: Final = re.compile(
    r"(?P<number>0[0-9]+|[0-9]{11,})(?![0-9]|[.,][0-9]|\s?[元个人万亿%‰])"
)
_CARD: Final = re.compile(r"(?P<number>[0-9]{4}(?:[ -][0-9]{4}){2,4}(?:[ -][0-9]{1,3})?)(?![0-9])")
_COMPACT_DATE: Final = re.compile(
    r"(?P<number>(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))"
    r"(?![0-9]|[.,][0-9]|\s?[元个人万亿%‰])"
)
_DOTTED: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){2,8}(?![0-9])")
_CHAINED: Final = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10}){2,8}(?![0-9])")


def _phone(match: re.Match[str]) -> str:
    return spell(match["number"], on_the_phone=True)


def _read_mobile(match: re.Match[str]) -> str:
    country = "加八六，" if match["country"] else ""
    return country + _phone(match)


def _read_landline(match: re.Match[str]) -> str:
    extension = match["extension"]
    number = spell(match["area"] + match["number"], on_the_phone=True)
    return number + (f"转{spell(extension, on_the_phone=True)}" if extension else "")


def _read_groups(match: re.Match[str]) -> str:
    """Read a long number with the pauses its author put between the groups."""
    return "，".join(spell(group, on_the_phone=True) for group in re.split("[ -]", match["number"]))


def _read_cued(match: re.Match[str]) -> str:
    groups = re.split("[ -]", match["number"])
    return _read_groups(match) if min(map(len, groups)) >= 3 else _phone(match)


def _read_dotted(match: re.Match[str]) -> str:
    parts = match[0].split(".")
    is_address = len(parts) == 4
    return "点".join(spell(p, on_the_phone=True) for p in parts) if is_address else dotted(match[0])


def _read_chained(match: re.Match[str]) -> str:
    """Read ``5-2-301`` (building, entrance, flat) with the word for the hyphen."""
    parts = match[0].split("-")
    return "杠".join(
        spell(part, on_the_phone=True) if len(part) > 2 else cardinal(part) for part in parts
    )


RULES: Final = (
    Rule("mobile", Start.DIGIT | Start.SYMBOL, _MOBILE, _read_mobile),
    Rule("international", Start.SYMBOL, _INTERNATIONAL, lambda match: "加" + _phone(match)),
    Rule("landline", Start.DIGIT | Start.SYMBOL, _LANDLINE, _read_landline),
    Rule("service number", Start.DIGIT, _SERVICE, _phone),
    Rule("hotline", Start.DIGIT, _HOTLINE, _phone),
    Rule("emergency number", Start.DIGIT, _EMERGENCY, _phone),
    Rule("one more", Start.DIGIT, _EMERGENCY_LIST, _phone, cue=_AFTER_AN_EMERGENCY),
    Rule("day of an event", Start.DIGIT, _COMMEMORATED, lambda match: spell(match["number"])),
    Rule("university list", Start.DIGIT, _UNIVERSITIES, _phone),
    Rule("card in groups", Start.DIGIT, _CARD, _read_groups),
    Rule("cued digits", Start.DIGIT, _CUED, _read_cued, cue=_CUE),
    Rule("room", Start.DIGIT, _ROOM, _phone),
    Rule("route", Start.DIGIT, _ROUTE, _phone),
    Rule("compact date", Start.DIGIT, _COMPACT_DATE, lambda match: spell(match["number"])),
    Rule("long or zero-led digits", Start.DIGIT, _LONG_FLAT, _phone),
    Rule("version or address", Start.DIGIT, _DOTTED, _read_dotted),
    Rule("chained by hyphens", Start.DIGIT, _CHAINED, _read_chained),
)
