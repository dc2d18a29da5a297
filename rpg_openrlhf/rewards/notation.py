r"""Answer text to one plain LaTeX dialect: no wrappers, spacing, units or currency; `\frac`, `\text{}`, ASCII signs.

Everything here is linear in the text, or bounded by the caps of `grading.py`.
"""

import re
import unicodedata

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",
        "∙": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
        "±": r"\pm ", "∓": r"\mp ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "°": r"^\circ ",
        "√": r"\sqrt ", "∛": r"\sqrt[3] ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ",
        "≈": r"\approx ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda ", "ω": r"\omega ",
        "φ": r"\phi ", "∨": r"\lor ", "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
        "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "ℝ": r"\mathbb{R}", "’": "'", "′": "'", "“": '"', "”": '"',
        "\u200b": "", "\ufeff": "", "⁄": "/", "✓": "", "✅": "", "■": "", "□": "",
    }
)  # fmt: skip
_RAISED = str.maketrans("₀₁₂₃₄₅₆₇₈₉⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "01234567890123456789-")
_SUBSCRIPT_RUN = re.compile("[₀-₉]+")
_SUPERSCRIPT_RUN = re.compile("⁻?[⁰¹²³⁴-⁹]+")

# Spacing, sizing and style commands mean nothing to the value.
_VOID = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|scriptstyle|limits|nolimits|quad|qquad|hfill|big[lr]?|Big[lr]?|bigg[lr]?"
    r"|Bigg[lr]?|boldsymbol|bm|mathbf|mathit|mathsf|mathnormal|rm|bf|it|large|Large|huge|Huge"
    r"|blacksquare|square|checkmark|centering|thinspace|enspace|phantom\{[^{}]*\})"
    r"(?![A-Za-z])|(?<!\\)\\[!,;:> ]|[~&]"
)
_KEEP_AMPERSAND = re.compile(r"\\begin\{")
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up|md)?|mathrm|mbox|hbox|operatorname\*?|emph|underline|mathop)\s*\{([^{}]*)\}"
)
_RENAMED = [
    (re.compile(r"\\(?:textcolor|color)\s*\{[^{}]*\}"), " "),
    (re.compile(r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"(?<=[\d}])\s*(?:\\text\{)?thousand\b\}?"), r"\\cdot 10^3 "),
    (re.compile(r"(?<=[\d}])\s*(?:\\text\{)?million\b\}?"), r"\\cdot 10^6 "),
    (re.compile(r"(?<=[\d}])\s*(?:\\text\{)?billion\b\}?"), r"\\cdot 10^9 "),
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:leqslant|leq|lt(?![A-Za-z])=|leqq)(?![A-Za-z])"), r"\\le"),
    (re.compile(r"\\(?:geqslant|geq|geqq)(?![A-Za-z])"), r"\\ge"),
    (re.compile(r"\\neq(?![A-Za-z])"), r"\\ne"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\(?:varnothing|O(?![A-Za-z])|emptyset)(?![A-Za-z])"), r"\\emptyset"),
    (re.compile(r"\\(?:lbrace)(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\(?:langle|lparen)(?![A-Za-z])"), "("),
    (re.compile(r"\\(?:rangle|rparen)(?![A-Za-z])"), ")"),
    (re.compile(r"\\(?:lbrack)(?![A-Za-z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![A-Za-z])"), "]"),
    (re.compile(r"\\(?:lvert|rvert|vert|mid)(?![A-Za-z])"), "|"),
    (re.compile(r"\\(?:imath|mathrm\{i\}|text\{i\})"), "i"),
    (re.compile(r"\\(?:prime)(?![A-Za-z])"), "'"),
    (re.compile(r"\^\{('+)\}"), r"\1"),
    (re.compile(r"<="), r"\\le "),
    (re.compile(r">="), r"\\ge "),
    (re.compile(r"!="), r"\\ne "),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\b(?:np|math|numpy|sympy)\."), ""),
    (
        re.compile(r"(?<![\\A-Za-z])(sqrt|arcsin|arccos|arctan|sin|cos|tan|cot|log|ln|exp|pi|infty)(?![A-Za-z])"),
        r"\\\1 ",
    ),
    (re.compile(r"(?<![\\A-Za-z])(?:infinity|inf|oo)(?![A-Za-z])"), r"\\infty "),
]
_FRACTION_BAR = re.compile(r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degrees?(?![A-Za-z])|\s+degrees?(?![A-Za-z])")
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_THOUSANDS = [
    re.compile(r"(?<=\d)\s*(?:\{,\}|,\\!|\\,|\\!|\\;)\s*(?=\d{3}(?!\d))"),
    re.compile(r"(?<=\d)\{,\}(?=\d)"),
]
_CURRENCY = re.compile(r"\\\$|[$€£¥₹]|\\(?:pounds|euro|textdollar|textsterling)(?![A-Za-z])|\b(?:USD|EUR|Rs\.)")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_SPACES = re.compile(r"\s+")


def clean(text: str) -> str:
    """The dialect that `answers.py` reads. Per cent signs become `\\%`; everything else of no value is dropped."""
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_RAISED) + "}", text)
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_RAISED) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(_UNICODE))
    text = strip_emphasis(text)
    matrix = _KEEP_AMPERSAND.search(text) is not None
    for pattern in _THOUSANDS:
        text = pattern.sub("", text)
    text = _TEXT.sub(_text_group, text)
    text = _CURRENCY.sub(" ", _DELIMITERS.sub(" ", text))
    text = _VOID.sub(lambda m: m.group() if matrix and m.group() == "&" else " ", text)
    for pattern, replacement in _RENAMED:
        text = pattern.sub(replacement, text)
    text = _FRACTION_BAR.sub(r"\\frac{\1}{\2}", text)
    if _TRIGONOMETRY.search(text):  # under a sine the degree is a number
        text = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", text)
    text = _DEGREES.sub(" ", text)
    text = re.sub(r"(?<!\\)%|\\text\{\s*(?:percent|per cent)\s*\}|\bper ?cent\b", r"\\%", text)
    return _trim(_SPACES.sub(" ", text))


def strip_emphasis(text: str) -> str:
    """Without markdown around the value: **42**, *42*, `42`."""
    text = text.strip()
    for mark in ("**", "__", "*", "`"):
        while len(text) > 2 * len(mark) and text.startswith(mark) and text.endswith(mark):
            text = text[len(mark) : -len(mark)].strip()
    return re.sub(r"^(?:\*\*|__)|(?:\*\*|__)(?=[\s.]*$)", "", text).strip()


def _text_group(match: re.Match[str]) -> str:
    content = _SPACES.sub(" ", match.group(1).replace("~", " ")).strip()
    if content.lower() in ("or", "and", ","):
        return f" {content.lower()} "
    if content in ("sin", "cos", "tan", "log", "ln", "arcsin", "arccos", "arctan", "exp", "lcm", "gcd"):
        return f"\\{content} "
    if content in ("i", "e", "d"):
        return content
    if re.fullmatch(r"\(?[A-Z]\)?(?:, ?\(?[A-Z]\)?)+", content):
        return content
    return f"\\text{{{content}}}" if content else " "


def _trim(text: str) -> str:
    """Without the punctuation that ends a sentence, and without quotation marks."""
    while True:
        shorter = text.strip().strip('"').rstrip(".,;:?").strip()
        shorter = re.sub(r"^(?:\\approx|\\sim|=|:)\s*", "", shorter)
        if shorter.endswith("\\"):
            shorter = shorter[:-1]
        if shorter == text:
            return text
        text = shorter


# Trailing words after a number that are no unit change what is said.
_NOT_UNIT_WORDS = """
    or and not if plus times minus no none over to than but is are divided by mod hundred thousand million
    billion trillion dozen percent either neither cannot wrong modulo unless pi sqrt base half third quarter
    squared cubed maybe perhaps
"""
_NOT_UNITS = frozenset(_NOT_UNIT_WORDS.split())
_UNIT_WORDS = """
    m s g h l L N J W V A K C F Pa Hz kg mg km cm mm nm ft yd mi lb lbs oz min hr hrs sec ms mph kph kmh mL ml
    eV keV MeV mol rad sr deg AU pc Mpc kpc erg in per way ways day days men cup cups sq cu km/h
"""
_UNIT_SYMBOLS = frozenset(_UNIT_WORDS.split())
_TRAILING_TEXT = re.compile(
    r"(?:/|\\cdot|\\times|\*)?\s*\\text\{([^{}]*)\}(?:\s*\^\s*\{?\s*-?\d+\s*\}?)?\s*(?:/\s*[a-z]+)?\s*"
)
_TRAILING_WORDS = re.compile(
    r"((?:(?:^|\s|(?=/)|(?<=[^A-Za-z\s]))/?\s?(?<![A-Za-z\\])[A-Za-z]{1,20}(?![A-Za-z])(?:\^\{?-?\d\}?)?\.?){1,6})\s*$"
)
_REMARK = re.compile(r"(?<=\d) ?\(([A-Za-z]{3,20}(?: [A-Za-z]{2,20}){0,3})\)$")
_NUMERIC = re.compile(r"(?:\\(?:frac|sqrt|times|cdot|pi)(?![A-Za-z])|[-+\d.,\s/(){}e^*])*")


def strip_units(text: str, bare_letters: bool) -> str:
    """Without a trailing unit. `bare_letters`: a lone m or s after a number is a unit, not a variable."""
    while (start := text.rfind("\\text{")) > 0:
        before = text[:start].rstrip().removesuffix("/").rstrip()
        unit = _TRAILING_TEXT.fullmatch(text[start:])
        if unit is None or not before or before.endswith(("_", "^", "{", "(", "=")):
            break
        if set(unit.group(1).lower().split()) & _NOT_UNITS or any(c.isdigit() for c in unit.group(1)):
            break
        text = before.removesuffix("\\cdot").removesuffix("\\times").rstrip()
    remark = _REMARK.search(text[-80:])  # 42 (approximately)
    if remark and not set(remark.group(1).lower().split()) & _NOT_UNITS:
        text = text[: len(text) - len(remark.group())].rstrip()
    words = _TRAILING_WORDS.search(text[-200:])
    if words is None:
        return text
    value = text[: len(text) - len(text[-200:]) + words.start()].rstrip()
    if len(value) > 200 or not _NUMERIC.fullmatch(value) or not re.search(r"\d|\\pi", value):
        return text
    names = re.findall(r"[A-Za-z]+", words.group(1))
    if not all(name in _UNIT_SYMBOLS or (len(name) > 3 and name.lower() not in _NOT_UNITS) for name in names):
        return text
    return text if len(names[0]) == 1 and not bare_letters else value
