"""Tasks mined from how a text connects its sentences (as in AdaptLLM, Cheng et al. 2024).

The connective, which tells the relation, is taken out of the input.
"""

import re
from collections.abc import Iterator

from instructrec_jax.instructions.document import Context, Document, Draft
from instructrec_jax.instructions.tasks.keywords import content_words
from instructrec_jax.instructions.tasks.sentences import (
    capitalised,
    is_chinese,
    is_sound,
    paragraphs_of,
)

CONSEQUENCE, CONTRAST, NEITHER = RELATIONS = ("consequence", "contrast", "neither")
_RESTATEMENT = "restatement"
_OPENINGS = {
    CONSEQUENCE: (
        "Therefore,", "As a result,", "Consequently,", "Hence,", "For this reason,",
        "As a consequence,", "因此", "所以", "因而", "结果，",
    ),
    CONTRAST: (
        "However,", "In contrast,", "By contrast,", "On the other hand,", "Nevertheless,",
        "Nonetheless,", "On the contrary,", "Conversely,", "但是", "然而", "不过，", "相反，",
    ),
    _RESTATEMENT: (
        "In other words,", "Put differently,", "To put it another way,", "Stated differently,",
        "That is to say,", "换句话说", "也就是说", "换言之",
    ),
}  # fmt: skip
_CONNECTIVES = {opening: kind for kind, openings in _OPENINGS.items() for opening in openings}
_OPENING = re.compile("|".join(map(re.escape, _CONNECTIVES)))
# An opening that points at what stands outside the pair; further links inside a sentence.
_LINKED = re.compile(
    r"^(?:But|And|Or|So|Also|Then|Thus|Still|Yet|Otherwise|Instead|Moreover|Furthermore|Similarly"
    r"|Finally|Note|Likewise|Second|Third|First|In particular|In addition|For example|For instance"
    r"|Earlier|Specifically|As (?:mentioned|said|noted|shown|before)|Of course|Certainly|In turn)\b"
    r"|^(?:但|而|并|另外|此外|同时|同样|举个例子|例如|比如)"
)
_NEITHER_DISTANCE = 3
# "However" is about twice as frequent as all words of consequence together.
_CONTRAST_SHARE = 0.5
_NEITHER_SHARE = 0.67

_POINTING = re.compile(
    r"^(?:It|This|That|These|Those|They|He|She|Which|There|What|Here|Such|We|You|I|And|But|So|If"
    r"|Just|Not|Only|Probably|Perhaps|Maybe|When|For)\b|^(?:这|那|它|他|她|其|此)",
)
_BECAUSE = re.compile(r",?\s+because\s+(?!of\b)", re.IGNORECASE)
_BECAUSE_FIRST = re.compile(r"Because (?!of\b)([^,;:()]{15,}), ((?!and\b|or\b|but\b)[^;:]{20,})\.")
_REASON_BEFORE = re.compile(r"(?:This|That) (?:is|was|happens|occurs) because (?!of\b)(.{15,})")
# "only because", "not ... because": the part that follows is no plain cause.
_HEDGED = re.compile(
    r"\b(?:not|n't|never|only|just|simply|mostly|mainly|partly|perhaps|probably|especially|largely"
    r"|maybe|however|though|is|are|was|were|be|and|but|or|than|precisely|exactly|primarily)$|\bnot\b|n't\b|\bno\b"
)
_HAN_CAUSE = re.compile(r"(?:因为|由于)([^，。；]{6,40})，(?:所以|因此|因而)([^。；]{6,60})。")
_HAN_REASON = re.compile(r"([^，。；]{6,40})，(?:这)?是因为([^。；]{6,60})。")


def _linked_pairs(document: Document, context: Context) -> list[tuple[str, str, str]]:
    """(relation, first sentence, second without its connective) of neighbouring sentences."""

    def find() -> list[tuple[str, str, str]]:
        pairs = []
        for paragraph in paragraphs_of(document, context):
            for before, after in zip(paragraph, paragraph[1:], strict=False):
                match = _OPENING.match(after)
                if match is None or not is_sound(before) or _opens_linked(before):
                    continue
                second = capitalised(after[match.end() :].lstrip(" ，"))
                if is_sound(second) and not _opens_linked(second) and _is_tied(before, second):
                    pairs.append((_CONNECTIVES[match[0]], before, second))
        return pairs

    return context.remember(document, "linked_pairs", find)


def _opens_linked(sentence: str) -> bool:
    return bool(_OPENING.match(sentence) or _LINKED.match(sentence))


def _stands_alone(sentence: str) -> bool:
    return not _opens_linked(sentence) and not _POINTING.match(sentence)


def _is_tied(first: str, second: str) -> bool:
    """Whether two sentences share a word of meaning, or the second points back by a pronoun.

    Without a tie nobody could tell a relation, and with ties in one class alone anybody could.
    """
    if is_chinese(first):
        pairs = (first[i : i + 2] for i in range(len(first) - 1))
        return bool(_POINTING.match(second)) or any(
            pair in second for pair in pairs if not re.search(r"[，。、的是在了]", pair)
        )
    return bool(_POINTING.match(second)) or bool(content_words(first) & content_words(second))


def relate_sentences(document: Document, context: Context) -> Iterator[Draft]:
    """Two sentences → whether the second follows from the first, contrasts, or neither.

    Both classes of neighbours come from the connective between them. "neither" are sentences of the
    same text that stand apart. Classes are thinned by hash towards equal shares.
    """
    choose = context.random(document, "relation")
    found = [pair for pair in _linked_pairs(document, context) if pair[0] in RELATIONS]
    for relation, first, second in found:
        if relation == CONSEQUENCE or choose.random() < _CONTRAST_SHARE:
            yield _relation(relation, first, second, context, document)
    if found and choose.random() < _NEITHER_SHARE:
        flat = [s for paragraph in paragraphs_of(document, context) for s in paragraph]
        apart = [
            (first, second)
            for i, first in enumerate(flat)
            for second in flat[i + _NEITHER_DISTANCE :]
            if is_sound(first) and is_sound(second) and _stands_alone(second)
            if not _opens_linked(first) and _is_tied(first, second)
        ]
        if apart:
            yield _relation(NEITHER, *choose.choice(apart), context, document)


def _relation(
    relation: str, first: str, second: str, context: Context, document: Document
) -> Draft:
    options = list(RELATIONS)
    context.random(document, "relations", first, second).shuffle(options)
    fields = {"input": f"1. {first}\n2. {second}", "options": tuple(options)}
    return Draft(fields, target=relation, options=tuple(options))


def state_effect(document: Document, context: Context) -> Iterator[Draft]:
    """A statement → what the text says follows from it."""
    pairs = [
        (first, second)
        for relation, first, second in _linked_pairs(document, context)
        if relation == CONSEQUENCE
    ]
    pairs += [(cause, effect) for cause, effect in _causes(document, context, effects=True)]
    for cause, effect in pairs:
        if _stands_alone(cause):
            yield Draft({"input": cause}, target=effect)


def state_cause(document: Document, context: Context) -> Iterator[Draft]:
    """A statement → the reason that the text gives for it."""
    for cause, effect in _causes(document, context, effects=False):
        if _stands_alone(effect):
            yield Draft({"input": effect}, target=cause)


def _causes(document: Document, context: Context, *, effects: bool) -> Iterator[tuple[str, str]]:
    """(cause, effect) told in one sentence; `effects`: only those whose effect comes last."""
    for paragraph in paragraphs_of(document, context):
        for place, sentence in enumerate(paragraph):
            if "ecause" in sentence and is_sound(sentence):
                before = paragraph[place - 1] if place else ""
                yield from _english_causes(before, sentence, effects=effects)
            elif ("因为" in sentence or "由于" in sentence) and is_sound(sentence):
                match = _HAN_CAUSE.fullmatch(sentence)
                if match:
                    yield f"{match[1]}。", f"{match[2]}。"
                reason = _HAN_REASON.fullmatch(sentence)
                if reason and not effects:
                    yield f"{reason[2]}。", f"{reason[1].removeprefix('之所以')}。"


def _english_causes(before: str, sentence: str, *, effects: bool) -> Iterator[tuple[str, str]]:
    if sentence.casefold().count("because") != 1:
        return
    if match := _BECAUSE_FIRST.fullmatch(sentence):
        yield f"{capitalised(match[1])}.", f"{capitalised(match[2])}."
    elif effects:
        return
    elif match := _REASON_BEFORE.fullmatch(sentence):
        if is_sound(before):
            yield capitalised(match[1]), before
    else:
        effect, *rest = _BECAUSE.split(sentence)
        if len(rest) == 1 and len(rest[0]) >= 15 and len(effect.split()) >= 5:
            cut = re.search(r"[;:(]|, (?:but|and|so|which|or|although|though)\b", rest[0])
            inner = re.search(r"[;:]|\b(?:although|whether|if|when|while|unless)\b", effect)
            if not cut and not inner and not _HEDGED.search(effect) and rest[0][-1] == ".":
                yield capitalised(rest[0]), f"{effect}."


def paraphrase_sentence(document: Document, context: Context) -> Iterator[Draft]:
    """A sentence → the same put differently, as the text itself does."""
    for relation, first, second in _linked_pairs(document, context):
        if relation == _RESTATEMENT and _stands_alone(first):
            yield Draft({"input": first}, target=second)


_DEFINITION = re.compile(
    r"(?:(?:An?) (?P<common>[A-Za-z][\w-]*(?: [a-z][\w-]*){0,2})"
    r"|(?P<proper>(?!An? )[A-Z][\w-]*(?: [\w-]+){0,2}))"
    r" (?P<what>is (?:an?|any|one of the) [^.!?]{30,}"
    r"|are (?:an?|the) (?:way|kind|means|form|type|set|collection|group|family|unit)\b"
    r"[^.!?]{25,})\."
)
_HAN_DEFINITION = re.compile(
    r"(?P<proper>[\u4e00-\u9fffA-Za-z]{2,10}) ?(?P<what>是(?:指|一种|一个|一类)[^。]{8,})。"
)
# What cannot stand before "is a ..." in a definition.
_NO_TERM = re.compile(
    r"^(?:The|This|That|These|Those|It|There|Here|What|Which|Each|Every|Another|One|If|When|In|On|At"
    r"|For|As|By|With|All|Both|Any|Some|No|Not|Such|Its|Their|Our|Your|My|His|Her|We|You|I|He|She"
    r"|They|To|So|But|And|Or|Also|Then|Yes|Note|Among|Since|While|Because|From|Only|Instead|Most"
    r"|Many|Even|Now|Like|Using|Although|Though|Unless|Until|After|Before|Once|Whether|Where|How|Why"
    r"|Whenever|Given|Unlike|Under|During|Today|Currently|Usually|Sometimes|Often|Else|First|Second|Below|Above)\b"
    r"|\b(?:that|which|who|of|in|on|to|and|or|not|also|only|may|can|will|there|it|this|is|are|with"
    r"|for|from|by|as|you|we|they|one|another|thing|problem|way|reason|example|advantage|option"
    r"|solution|goal|idea|point|alternative|issue|case)$"
    r"|如果|本质|就|都|也|只|不|并|或|我|你|每|一|可以|其|实际|这|那|它|的|在|是"
)
_VAGUE = re.compile(
    r"^(?:is|are) (?:an?|any|one of the) (?:part|core|key|good|bad|great|common|simple|bit|lot|nice"
    r"|little|must|few|big|way to go|mistake|problem|no-op|pain|important|useful|different|similar"
    r"|valid|very|much|better)\b"
)


def _definitions(document: Document, context: Context) -> list[tuple[str, str, str]]:
    """(term, sentence, the sentence with a blank for the term)."""

    def find() -> list[tuple[str, str, str]]:
        content = document.content
        if document.kind == "record" and content.get("term") and content.get("definition"):
            return [(content["term"], content["definition"], content["definition"])]
        found = []
        for paragraph in paragraphs_of(document, context):
            for sentence in paragraph:
                if not is_sound(sentence):
                    continue
                pattern = _HAN_DEFINITION if is_chinese(sentence) else _DEFINITION
                match = pattern.fullmatch(sentence)
                if match and (term := _term(match)):
                    blank = sentence.replace(term, "____", 1)
                    found.append((term, sentence, blank))
        return found

    return context.remember(document, "definitions", find)


def _term(match: re.Match[str]) -> str:
    named = match.groupdict()
    term = named.get("common") or named["proper"]
    if _NO_TERM.search(term) or _VAGUE.match(named["what"]) or re.search(r"\d$", term):
        return ""
    # A word of its own definition, as in "A list view is a view ...", is fine; the whole is not.
    return "" if term.casefold() in named["what"].casefold() else term


def define_term(document: Document, context: Context) -> Iterator[Draft]:
    """A term → the sentence in which the text says what it is."""
    for term, sentence, _ in _definitions(document, context):
        yield Draft({"input": term}, target=sentence)


def name_term(document: Document, context: Context) -> Iterator[Draft]:
    """A definition with a blank for the term → the term."""
    for term, _, blank in _definitions(document, context):
        yield Draft({"input": blank}, target=term)


_QUESTION = re.compile(r"(?:What|When|For what) (?:is|are|do|does|did|was|were|can|should) \w")
_FAQ = re.compile(
    r"^(?:Q|Question|问)\s*[:：.]\s*(?P<question>.+[?？])\s*$\s*"
    r"^(?:A|Answer|答)\s*[:：.]\s*(?P<answer>.+)$",
    re.MULTILINE,
)


def answer_question(document: Document, context: Context) -> Iterator[Draft]:
    """A question that stands in the text as a heading, in a FAQ or in a record → its answer."""
    content = document.content
    if document.kind == "record":
        if content.get("question") and content.get("answer"):
            text = "\n\n".join(filter(None, (content.get("context", ""), content["question"])))
            yield Draft({"input": text}, target=content["answer"])
        return
    if document.kind != "prose":
        return
    for match in _FAQ.finditer(content["passage"]):
        yield Draft({"input": match["question"].strip()}, target=match["answer"].strip())
    title = content["title"]
    # "But why?" asks nothing where it stands alone.
    alone = len(title) >= 12 and _stands_alone(title) or _QUESTION.match(title)
    if title.endswith(("?", "？")) and alone and content["opens"]:
        paragraphs = paragraphs_of(document, context)
        opening = paragraphs[0] if paragraphs else []
        kept = opening[: next((i for i, s in enumerate(opening) if not is_sound(s)), len(opening))]
        if kept:
            yield Draft({"input": title}, target=" ".join(kept[:3]))
