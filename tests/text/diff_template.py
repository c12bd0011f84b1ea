#!/usr/bin/env python3
"""The same text as jinja2 for chat templates over generated conversations, and for a table of small cases.
usage: diff_template.py RENDER_PROGRAM TEMPLATE_FILE…   (in a Python with jinja2; the environment is the one that transformers makes)"""
import json
import pathlib
import random
import subprocess
import sys
from datetime import datetime

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

N_CONVERSATIONS = 340


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return env


TEXTS = ["Hello", "", "你好，世界", "a\nb\n\n", "  padded  ", "😀 emoji 👩‍👩‍👧", "<think>\nhm\n</think>\n\nanswer", "quotes ' \" \\ /", "<tool_response>\nx\n</tool_response>",
         "tab\there", "{{ not a tag }}", "ünïcödé", "<think>open", "line\r\nbreak", "</think>early", "<|im_end|>"]
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Wetter für eine Stadt", "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "the \"city\""}, "days": {"type": "integer", "minimum": 1}, "unit": {"type": "string", "enum": ["c", "f"]},
        "tags": {"type": "array", "items": {"type": "string"}}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "noop", "parameters": {}}},
    {"type": "function", "function": {"name": "add", "description": "", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": ["number", "null"]}}}}},
]


def arguments(rng):
    value = rng.choice([{"city": "Köln", "days": 3}, {}, {"a": 1.5, "b": None, "deep": {"x": [1, "two", True]}}, {"text": "a\nb\"c"}, {"n": 1e20, "z": -0.0}])
    return json.dumps(value) if rng.random() < 0.3 else value


def conversation(rng):
    messages = []
    if rng.random() < 0.6:
        messages.append({"role": "system", "content": rng.choice(TEXTS)})
    for _ in range(rng.randrange(1, 5)):
        messages.append({"role": "user", "content": content(rng)})
        kind = rng.random()
        if kind < 0.35:
            calls = [{"type": "function", "id": f"c{i}", "function": {"name": rng.choice(["get_weather", "add"]), "arguments": arguments(rng)}} for i in range(rng.randrange(1, 3))]
            if rng.random() < 0.3:
                calls = [call["function"] for call in calls]
            messages.append({"role": "assistant", "content": rng.choice(["", None, "let me see"]), "tool_calls": calls})
            for _ in calls:
                messages.append({"role": "tool", "content": rng.choice(["21 °C", "{\"t\": 21}", ""]), "name": "get_weather"})
        if kind < 0.8:
            answer = {"role": "assistant", "content": rng.choice(TEXTS)}
            if rng.random() < 0.3:
                answer["reasoning_content"] = rng.choice(["because\n", "", "\nwhy not"])
            messages.append(answer)
    if rng.random() < 0.05:
        messages = rng.choice([[], [{"role": "system", "content": "only"}], [{"role": "odd", "content": "x"}], [{"role": "user"}]])
    variables = {"messages": messages, "add_generation_prompt": rng.random() < 0.5, "bos_token": "<s>", "eos_token": "</s>"}
    if rng.random() < 0.5:
        variables["tools"] = rng.choice([TOOLS, TOOLS[:1], [], None, [t["function"] for t in TOOLS]])
    if rng.random() < 0.4:
        variables["enable_thinking"] = rng.random() < 0.5
    return variables


def content(rng):
    if rng.random() < 0.03:
        return [{"type": "text", "text": rng.choice(TEXTS)} for _ in range(rng.randrange(1, 3))]
    return rng.choice(TEXTS)


VARS = {"s": "Hello World", "e": "", "n": 5, "f": 2.5, "neg": -7, "t": True, "no": None, "l": [3, 1, 2], "ls": ["b", "A", "c"], "d": {"a": 1, "b": "x", "items": 9},
        "o": [{"k": "x", "v": 2, "on": True}, {"k": "y", "v": 1, "on": False}, {"k": "x", "v": 3}], "u": "äöü 你好 😀", "nested": {"a": {"b": [10, 20]}}, "w": "  x y \n"}
EXPRESSIONS = """
1 + 2 * 3 ** 2|-7 // 2|-7 % 3|7 / 2|6 / 3|2 ** -1|2 ** 10|1.5 + 1|0.1 + 0.2|1e20|1e16|123456789.0|1.5e-7|-0.0|10 // 3.0|-7.5 % 2|n ~ f ~ no ~ t|s + '!'|'ab' * 3|3 * 'ab'|l + [4]
[1, 2.0, 'x', true, none]|(1,)|(1, 'a')|()|{'a': 1, 'b': [1, {'c': none}]}|{}|[]|'it\\'s'|["it's", 'say "x"', 'both \\' "']|['a\\nb\\t\\\\']|['ü\\x07']
1 < 2 < 3|1 < 3 < 2|1 == 1.0|true == 1|'a' < 'b'|[1, 2] < [1, 3]|'a' in s|'W' in s|'x' not in s|1 in l|'a' in d|'z' in d|not t|not not t|t and n|e or 'fallback'|no or e or 'x'|n and no
s if t else e|s if not t|(s if e else 'b') ~ 1|1 if 0 else 2 if 0 else 3|s[0]|s[-1]|s[1:4]|s[::-1]|s[:-1]|s[::2]|l[1:]|l[::-1]|l[-2:]|l[5:]|u[4]|u[::-1]|u[1:6]|l[0]|nested.a.b[1]|nested['a']['b'][-1]|d.a|d['b']|d.zzz|d['zzz']|l[9]
d.items() | list|d.keys() | list|d.values() | list|d.get('a')|d.get('q')|d.get('q', 7)|s.upper()|s.lower()|s.title()|'hELLO wORLD'.title()|'hELLO'.capitalize()|u.upper()|'straße'.upper()|w.strip()|w.lstrip()|w.rstrip()|'xxaxx'.strip('x')|'abcab'.lstrip('ab')|s.startswith('He')|s.startswith(('x', 'H'))|s.endswith('ld')
s.split(' ')|'a,b,,c'.split(',')|'a,b,c'.split(',', 1)|'  a  b '.split()|' a b c '.split(none, 1)|'a,b,c'.rsplit(',', 1)|'a\\nb\\r\\nc'.splitlines()|s.replace('o', '0')|s.replace('o', '0', 1)|'aaa'.replace('', '-')|s.find('o')|s.rfind('o')|s.find('q')|u.find('你')|s.count('l')|', '.join(ls)|'{} {}'.format(1, 'x')|'{0} {1} {0}'.format(1, 2)|'{a}'.format(a=3)|'{{}}'.format()|'%s-%d' % ('a', 3)|'%.2f' % 3.14159|'%5s|' % 'ab'|'12'.isdigit()|'ab1'.isalnum()|'ab'.isalpha()|' '.isspace()|'prefix-x'.removeprefix('prefix-')
s | upper|s | lower|s | length|l | length|d | length|u | length|w | trim|'xax' | trim('x')|l | join(', ')|o | join('-', attribute='k')|l | first|l | last|e | first|l | sort|ls | sort|ls | sort(reverse=true)|o | sort(attribute='v') | map(attribute='v') | list|l | reverse | list|s | reverse|ls | map('upper') | list|o | map(attribute='k') | list|o | map(attribute='on', default='?') | list
o | selectattr('on') | map(attribute='k') | list|o | rejectattr('on') | map(attribute='v') | list|o | selectattr('k', 'equalto', 'x') | list | length|l | select('odd') | list|l | reject('odd') | list|[0, 1, '', 'a', none] | select | list|l | select('gt', 1) | list|l | sum|o | sum(attribute='v')|l | min|l | max|['b', 'a', 'B'] | unique | list|d | dictsort|d | items | list|[1, 2, 3, 4, 5] | batch(2) | list|[1, 2, 3] | batch(2, 0) | list
'3' | int|'3.7' | int|'x' | int|'x' | int(9)|3.9 | int|'2.5' | float|2.5 | round|3.5 | round|2.345 | round(2)|2.1 | round(0, 'ceil')|-5 | abs|missing | default('d')|e | default('d')|e | default('d', true)|no | default('d')|missing | d('x')|s | replace('World', 'you')|'a\\nb\\n\\nc' | indent|'a\\nb' | indent(2, true)|'a\\nb' | indent('> ')|'%s!' | format('x')|'<a href="x">' | escape|'<b>' | safe|s | wordcount|l | string|n | string | length|s | list|'hello world' | title|'hELLO' | capitalize|l | count
d | tojson|l | tojson|s | tojson|u | tojson|u | tojson(ensure_ascii=true)|o | tojson(indent=2)|d | tojson(sort_keys=true)|d | tojson(separators=(',', ':'))|'a"b\\\\c/\\n\\x07\\u2028' | tojson|[1.0, 1e20, 0.1, -0.0, 12345678901234567.0] | tojson|no | tojson|t | tojson|[] | tojson(indent=4)|{} | tojson(indent=4)|{'a': []} | tojson(indent=1)
s is string|n is string|n is number|t is number|n is integer|f is float|f is integer|t is boolean|no is none|missing is defined|s is defined|missing is undefined|d is mapping|l is mapping|l is iterable|s is iterable|n is iterable|l is sequence|d is sequence|n is odd|n is even|n is divisibleby 5|n is divisibleby(3)|n is eq 5|n is equalto(5)|n is not none|n is not string|n in [1, 5]|'a' is in ['a']|t is true|t is false|n is true|s is upper|'AB' is upper|n is sameas n|n is gt 3|n is lt(3)|range is callable|not n is odd
range(5) | list|range(2, 5) | list|range(5, 0, -2) | list|range(0) | list|dict(a=1, b=2)|namespace(x=1).x|-n|+n|- n | abs|n | string ~ 'x'|(n, f) | list|"a" "b"|'\\u00e4\\U0001F600\\x41\\101'|1_000|'a' ~ 1 + 2|2 + 3 ~ 'x'|not 1 == 2|1 if missing else 2|missing ~ 'x'|[missing]|loop
missing.x|missing['x']|missing()|1 + 'a'|no.x|no[0]|n.x.y|l.append(1)|d.update(a=2)|'a' < 1|s | nofilter|s is notest|1 / 0|1 // 0|raise_exception('boom')|undefined_fn(1)|missing + 1|-missing|l[missing]|s.nomethod()|[1, 'a'] | sort|missing < 1|1 in 5|for|1 +|(1|{'a' 1}|s[|'abc|a b
""".strip()
STATEMENTS = [
    "{% for x in l %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.index }}/{{ loop.length }}/{{ loop.revindex }}/{{ loop.index0 }}/{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}", "{% for c in u %}[{{ c }}]{% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}", "{% for x in missing %}a{% else %}none{% endfor %}", "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for a in l %}{% for b in ls %}{{ a }}{{ b }}{{ loop.index }} {% endfor %}{{ loop.index }}\n{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{% endfor %}", "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = i %}{% endfor %}{{ x }}", "{% set ns = namespace(x=0, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set x %}block {{ n }}{% endset %}[{{ x }}]", "{% set x | upper %}block{% endset %}{{ x }}", "{% if t %}{% set q = 3 %}{% endif %}{{ q }}",
    "{% set x = [1, 2] %}{% set x = x + [3] %}{{ x }}", "{% set d2 = dict(d, c=3) %}{{ d2.c }}{{ d2.a }}",
    "{% macro m(a, b='x') %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}{{ m() }}",
    "{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * (fact(n - 1) | int) }}{% endif %}{% endmacro %}{{ fact(6) }}", "{% macro m() %}{{ s }}{% endmacro %}{% set s = 'changed' %}{{ m() }}",
    "{% macro m(x) %}[{{ caller() }}{{ x }}]{% endmacro %}{% call m(1) %}body {{ n }}{% endcall %}", "{% macro m() %}{{ caller('p') }}{% endmacro %}{% call(v) m() %}<{{ v }}>{% endcall %}",
    "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}", "{% raw %}{{ raw }} {% if %}{% endraw %}!", "a{# comment #}b{#- c -#} d",
    "{% if n > 3 %}a{% elif n > 2 %}b{% else %}c{% endif %}", "{% if e %}a{% elif no %}b{% else %}c{% endif %}", "{% if n > 9 %}x{% endif %}", "  {% if t %}\n  a\n  {% endif %}\n  b\n",
    "x\n  {%- if t -%}\n  a  \n  {%- endif -%}\n  b", "{%- for x in l -%}\n {{- x -}} \n{%- endfor -%} end", "a {%+ if t %} b {% endif %}\nc", "  {{ n }}  \n\n", "{{ n -}}   x", "x   {{- n }}",
    "{% if t +%}\n a{% endif %}", "line\n{# c #}\nnext", "a\n    {# c #}\n    b", "{{ '{{' }}{{ '%}' }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': 1}['a'] }}", "{% set m = {'x': {'y': 2}} %}{{ m.x.y }}",
    "a\r\nb\r\n", "trailing\n\n", "", "\n", "{{ s }}{{ raise_exception('stop ' ~ n) }}", "{% for m in o %}{{ m.k }}{{ m.on }}{% endfor %}",
    "{% if 'a' in d and d.a is defined and d.a %}y{% endif %}", "{{ o[0].k }}{{ o[-1]['v'] }}", "{{ strftime_now('%Y') }}", "{% unknown %}", "{% if t %}", "{% endif %}", "{{ n", "{% for %}", "{# open",
    "{% set loop = 1 %}{% for x in l %}{{ loop.index }}{% endfor %}{{ loop }}", "{% for i in range(3) %}{% set ns = namespace(i=i) %}{{ ns.i }}{% endfor %}", "{{ [1,2,3,] }}{{ (1,2,) }}{{ {'a':1,} }}",
    "{% if not (n is string or n is none) %}ok{% endif %}", "{%- set x = 1 -%}\n\n{{ x }}", "{% set x = 'a' if t else 'b' %}{{ x }}", "{% set a = b = 1 %}", "{{ 1 if t }}", "{{ s | upper | lower | title | length }}",
]


def expected(env, case):
    try:
        return {"text": env.from_string(case["template"]).render(**case["variables"])}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def cases(paths):
    rng = random.Random(7)
    conversations = [conversation(rng) for _ in range(N_CONVERSATIONS)]
    for path in paths:
        source = json.loads(path.read_text())["chat_template"] if path.suffix == ".json" else path.read_text()
        for i, variables in enumerate(conversations):
            yield f"{path.name} conversation {i}", {"template": source, "variables": variables}
    for line in EXPRESSIONS.splitlines():
        parts, at = line.split("|"), 0
        # A filter's own bar has blanks around it.
        whole = line.replace(" | ", "\0").replace("|' %", "\1").split("|")
        for expression in whole:
            expression = expression.replace("\0", " | ").replace("\1", "|' %")
            yield expression, {"template": "{{ " + expression + " }}", "variables": VARS}
    for statement in STATEMENTS:
        yield statement, {"template": statement, "variables": VARS}


def main():
    program, env = sys.argv[1], environment()
    all_cases = list(cases([pathlib.Path(p) for p in sys.argv[2:]]))
    stream = "".join(json.dumps(case) + "\n" for _, case in all_cases)
    done = subprocess.run([program], input=stream.encode(), capture_output=True)
    answers = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
    if done.returncode != 0 or len(answers) != len(all_cases):
        raise SystemExit(f"{program} ended with {done.returncode} after {len(answers)} of {len(all_cases)} cases: {done.stderr.decode()}")
    n_wrong = n_errors = 0
    by_template = {}
    for (name, case), answer in zip(all_cases, answers):
        wanted = expected(env, case)
        n_errors += "error" in wanted
        if " conversation " in name:
            by_template.setdefault(name.split(" ")[0], []).append("text" in wanted)
        # Both may refuse; what raise_exception says must be the same.
        said = wanted.get("error", "").split("TemplateError: ", 1)
        same = answer == wanted if "text" in wanted else "error" in answer and (len(said) == 1 or answer["error"] == said[1])
        if not same:
            n_wrong += 1
            if n_wrong <= 25:
                print(f"{name!r}:\n   got {json.dumps(answer, ensure_ascii=False)[:600]}\n  want {json.dumps(wanted, ensure_ascii=False)[:600]}")
    for template, rendered in by_template.items():
        print(f"{template}: {sum(rendered)} of {len(rendered)} conversations rendered, the others refused by both")
    print(f"{len(all_cases)} cases ({len(sys.argv) - 2} templates over {N_CONVERSATIONS} conversations; {n_errors} refused by both), {n_wrong} differ")
    return 1 if n_wrong else 0


sys.exit(main())
