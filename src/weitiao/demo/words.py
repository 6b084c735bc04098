"""The words between the facts: how a complaint is put together, how a letter hangs around it, and what dirt clings to it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Subject:
    """Something to complain about. An event, a detail and an ask of one subject go together in any choice."""

    name: str
    events: tuple[str, ...]
    details: tuple[str, ...]
    asks: tuple[str, ...]


REGISTERS: dict[str, tuple[str, ...]] = {
    "polite": (
        "{event}，{detail}，希望{ask}。",
        "想反映一下，{event}，{detail}，恳请{ask}。",
        "{event}，而且{detail}，能否帮忙{ask}？",
        "最近{event}，{detail}，盼望有关部门{ask}。",
    ),
    "furious": (
        "{event}！{detail}！{rage}！",
        "{rage}！{event}，{detail}，赶紧{ask}！",
        "{event}，{detail}，{rage}，必须{ask}！！",
        "到底有没有人管？{event}！{detail}！",
    ),
    "terse": ("{event}，{detail}。", "{event}，请{ask}。", "{event}；{detail}；{ask}。", "{event} {detail}", "{event} {detail} 请{ask}"),
    "rambling": (
        "说来话长，{event}，{aside}，{aside2}，{detail}，你们看能不能{ask}？",
        "{event}，{aside}，本来不想麻烦大家的，可是{detail}，总得有人{ask}吧。",
        "事情是这样的，{event}，我当时没在意，{aside}，结果{detail}，{aside2}。",
    ),
    "formal": (
        "现就{subject}问题反映如下：{event}，{detail}，请依法依规{ask}。",
        "关于{subject}一事，{event}。经多方沟通未果，{detail}。请贵单位{ask}。",
        "兹投诉{subject}：{event}，{detail}，望{ask}并予以回复。",
    ),
    "colloquial": (
        "{event}，{detail}，{tail}。",
        "真是服了，{event}，{detail}，能不能{ask}啊？",
        "{event}呢，{detail}，{tail}，快{ask}吧！",
        "跟你们说个事儿，{event}，{detail}，{tail}~",
    ),
}

RAGES = (
    "简直无法忍受",
    "这日子没法过了",
    "太欺负人了",
    "我忍你们很久了",
    "良心都不会痛吗",
    "再不处理我就找媒体曝光",
    "气得我一夜没睡",
    "拿老百姓当什么了",
)

ASIDES = (
    "我家老头子也这么说",
    "那天正好下着大雨",
    "邻居们私下都在议论",
    "我还特意请了半天假",
    "原先好几年都没出过这种事",
    "手机里还存着照片",
    "孩子他爸脾气急差点吵起来",
    "我这人平时很少投诉",
    "上回来的人态度倒是挺好",
    "我们一家五口都指望着呢",
)

TAILS = ("咋整啊", "没人管可还行", "我真的会谢", "心累", "谁受得了", "这叫什么事儿", "跟没事人一样", "离大谱了")

WITNESSES = (
    "当时{person}也在场",
    "负责人{person}一直不露面",
    "接电话的{person}态度很差",
    "邻居{person}家也一样",
    "工作人员{person}只说知道了",
    "听说是{person}批准的",
    "上次来的{person}师傅再没出现",
)
"""Another person's name inside the question: it is not the writer's."""

DAYS = ("三天", "五天", "一个星期", "十来天", "半个月", "二十多天", "一个月", "两个多月", "小半年", "整整一周")
HOURS = ("凌晨两点", "半夜十二点", "晚上十一点", "清早五点", "凌晨三点半", "夜里一点多")
TIMES = ("两次", "三次", "四五次", "六次", "七八次", "十几次", "不下二十次")

LABELS: tuple[tuple[str, str, str, str], ...] = (
    ("", "", "", ""),
    ("姓名：", "地址：", "邮箱：", "问题："),
    ("投诉人：", "住址：", "电子邮箱：", "投诉内容："),
    ("【姓名】", "【地址】", "【邮箱】", "【诉求】"),
    ("name:", "address:", "email:", "question:"),
    ("姓名 ", "家住 ", "邮箱 ", "反映 "),
)
"""What stands before name, address, e-mail and question in a row of fields."""

SEPARATORS = ("，", "，", "；", " ", "  ", "\n", "。", " | ", "/", "、", ",")

SENTENCES: tuple[str, ...] = (
    "我叫{name}，住在{address}{mail}。{question}",
    "您好，我是{address}的{name}{mail}。{question}",
    "{name}（{address}{mail}）反映：{question}",
    "{name}：{address}{mail}。{question}",
    "{question}联系人{name}，地址{address}{mail}。",
    "{question}——{name}，{address}{mail}",
    "{address}，{name}{mail}：{question}",
    "本人{name}{mail}，现住{address}。{question}谢谢！",
    "尊敬的领导：\n{question}\n此致\n敬礼\n{name}\n{address}{mail}",
    "你好，{question}我是{name}，家在{address}{mail}，麻烦回复。",
    "来电人{name}{mail}\n{address}\n{question}",
)
"""Frames of whole letters; {mail} brings its own separator or is empty."""

MAILS = ("，邮箱 {email}", "，邮箱：{email}", "，{email}", "，邮箱是{email}", "，Email {email}", "，联系邮箱{email}", " {email}")

TWO_MAILS: tuple[tuple[str, int], ...] = (
    ("{first}（备用{second}）", 0),
    ("{first}，抄送{second}", 0),
    ("{first}，备用邮箱{second}", 0),
    ("{first}或者{second}", 0),
    ("{first}已停用，现用{second}", 1),
    ("原先是{first}，现在用{second}", 1),
    ("旧{first} 新{second}", 1),
    ("不要发{first}，请发{second}", 1),
)
"""Two addresses, and which of them counts: the one in use now, and where nothing is said of that, the first."""

JUNK = (
    "【发自手机客户端】",
    "发自我的iPhone",
    "#￥%……&*",
    "asdfgh",
    "[图片][图片]",
    "<br/>&nbsp;",
    "-- 工单号 {number}",
    "······",
    "\n\n（此件由系统自动转发）",
    "@@@",
    "  ///",
    "【阅读 {number}】",
    "===完===",
)
