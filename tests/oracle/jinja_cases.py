#!/usr/bin/env python3
"""Writes tests/golden/chat/features.json: small templates and what Jinja2 makes of them, set up as transformers does.

    pip install jinja2==3.1.6
    python3 tests/oracle/jinja_cases.py            # from the repository root
"""
import datetime
import json

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

DATE = datetime.datetime(2024, 7, 26)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: DATE.strftime(f)
    return env


MESSAGES = [
    {"role": "system", "content": "Be terse. "},
    {"role": "user", "content": " Hi\n"},
    {"role": "assistant", "content": "<think>\nx\n</think>\n\nB\u00e9"},
    {"role": "user", "content": "C <|im_end|> \u00e9\u4e2d\U0001f600"},
]

# Each template is rendered over MESSAGES; a pair gives other messages.
SPACE = """
a{% if true %}b{% endif %}c
a {% if true %} b {% endif %} c
{% if true %}\\nx\\n{% endif %}\\ny
  {% if true %}\\n  x\\n  {% endif %}\\n  y
  {%- if true -%}  \\n x \\n {%- endif -%} \\n y
  {%+ if true +%}\\n x\\n  {%+ endif +%}\\n y
a\\n  {{ 'x' }}\\n  b
a\\n  {{- 'x' -}}\\n  b
a\\n  {{+ 'x' }}\\n  b
a\\n  {# c #}\\n  b
a\\n  {#- c -#}\\n  b
a\\n  {#+ c +#}\\n  b
a {# c #} b
{# a\\nb #}\\nc
{##}x{#-#}y
x\\n
x\\n\\n
x\\n\\n\\n
x\\r\\ny\\rz\\r\\n
{{ 'a\\r\\nb' }}
{% raw %}{{ x }}{% if %}{% endraw %}
a\\n  {% raw %}\\n {{ x }} \\n  {% endraw %}\\nb
a\\n  {%- raw -%}\\n {{ x }} \\n  {%- endraw -%}\\nb
a {%+ raw %} x {%+ endraw +%}\\nb
{% raw -%}  x{% endraw %}
{%   raw   %}x{%   endraw   %}
{% raw %}{% endraw x %}{% endraw %}
{% if true %}  {% endif %}|
\\t{% if true %}\\t{% endif %}\\t|
\\u00a0{% if true %}x{% endif %}\\u00a0{%- if true %}y{% endif %}
{% if true -%}\\u00a0\\u2003x{% endif %}
{%- for m in messages -%}\\n [{{ m.role }}]\\n{%- endfor -%}\\n end
{% for m in messages %}\\n{{ m.role }}\\n{% endfor %}\\nend
{% for m in messages %}{{ m.role }}\\n{% endfor %}end
{{'a'}}\\n{{'b'}}\\n\\n{{'c'}}
{{ 1 }}{{-2}}{{ 3-}}
x{{-1}}
x {{ -1 }}
{{ {'a': {'b': 1}}}}
{{ {'a': {'b': 1}}.a.b}}
{{ '}}' }}{{ '%}' }}
{% set x = '%}' %}{{ x }}
{{ "{{" }}{{ '{%' }}{{ "#}" }}
{ { x } } {x} % } #}
}}%}
{% if true %}\\n\\n\\nx{% endif %}
{% if true %}\\n    {% if true %}\\n      x\\n    {% endif %}\\n{% endif %}\\n
    {% set x = 1 %}\\n    {{ x }}\\n
{%set x=1%}{{x}}
{% if true: %}x{% endif %}
{{
{{ 'a
{% if
{# x
{% raw %}x
{{ 'a' }
{{ (1 }}
{{ 1) }}
{{ [1} }}
{{ a ! b }}
{{ $x }}
{{ 1 2 }}
{{ }}
{{ () }}
{% %}
{% foo %}
{% endif %}
{% if true %}
{% if true %}{% endfor %}
{% for x in [1] %}{% endif %}
{% if true %}x{% else %}y{% elif true %}z{% endif %}
{% if %}x{% endif %}
{% set %}
{% set x %}abc
{% for x %}{% endfor %}
{% for x in %}{% endfor %}
{% macro %}{% endmacro %}
{% do 1 %}
{% if true %}a{% endif foo %}
"""

LITERALS = r"""
{{ 1 }} {{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 00 }} {{ -5 }} {{ +5 }}
{{ 1.5 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 1E20 }} {{ 1_0.2_5 }} {{ 100000.0 }} {{ 1e15 }} {{ 1e16 }} {{ 123456789012345680.0 }}
{{ 0.1 + 0.2 }} {{ 1/3 }} {{ 2.0 }} {{ -0.0 }} {{ 1e-4 }} {{ 1e-5 }} {{ 12345.678e-10 }} {{ 5e-324 }} {{ 1.7976931348623157e308 }}
{{ 1e308 * 10 }} {{ -1e308 * 10 }} {{ 1e308 * 10 - 1e308 * 10 }}
{{ 01 }}
{{ 1.}}
{{ .5 }}
{{ 1.x }}
{{ 1abc }}
{{ true }} {{ True }} {{ false }} {{ False }} {{ none }} {{ None }} {{ null }}
{{ 'a' }}{{ "b" }}{{ 'it''s' }}{{ "a" 'b' "c" }}
{{ 'a\nb\tc\\d\'e\"f' }}
{{ '\x41\u00e9\U0001F600\101\7\0'|length }}
{{ '\x41\u00e9\U0001F600\101' }}
{{ '\q\d\-' }}
{{ 'é中😀' }}
{{ '\é' }}
{{ '\中\😀' }}
{{ '\x4' }}
{{ '\u12' }}
{{ '\U00110000' }}
{{ [] }} {{ [1] }} {{ [1, 'a', none, true, 1.5, [2]] }} {{ [1,] }}
{{ (1,) }} {{ (1, 2) }} {{ () }} {{ 1, 2 }} {{ (1) }} {{ ((1, 2), 3) }}
{{ {} }} {{ {'a': 1, 'b': [1]} }} {{ {1: 2, none: 3, true: 4, (1, 2): 5} }} {{ {'a': 1,} }}
{{ {'a': 1, 'a': 2} }} {{ {1: 'x', 1.0: 'y', true: 'z'} }}
{{ {[1]: 2} }}
{{ {{}: 2} }}
{{ ["it's", 'say "x"', 'both \' "', 'a\nb\t\r\\', '\x00\x7f\xa0\u200b\ue000é'] }}
{{ ['\U000e0001', '\u2028', '\u3000', 'ａ'] }}
{{ [,] }}
{{ {'a' 1} }}
{{ {'a': } }}
{{ [1 2] }}
"""

OPERATORS = r"""
{{ 1 + 2 * 3 }} {{ (1 + 2) * 3 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 // -2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }}
{{ 2 ** 10 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2 ** -1 }} {{ 2.0 ** 3 }} {{ 0 ** 0 }} {{ (-8) ** 3 }} {{ 4 ** 0.5 }}
{{ 7.5 // 2 }} {{ -7.5 // 2 }} {{ 7.5 % 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1e20 // 3 }} {{ 0.3 // 0.1 }} {{ 0.3 % 0.1 }}
{{ true + true }} {{ true * 3 }} {{ -true }} {{ +false }} {{ true / 2 }} {{ 1 + 1.0 }}
{{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ 2 * 'ab' }} {{ 'ab' * 0 }} {{ 'ab' * -1 }} {{ [1] + [2] }} {{ [1] * 2 }} {{ (1,) + (2,) }} {{ 2 * (1,) }}
{{ 'a' ~ 1 ~ none ~ true ~ 1.0 ~ [1] ~ missing }} {{ 1 ~ 2 }} {{ (1 + 2) ~ 3 }} {{ 'a' ~ 'b' + 'c' }}
{{ 1 + 2 ~ 3 }}
{{ 1 == 1.0 }} {{ 1 == true }} {{ 0 == false }} {{ '1' == 1 }} {{ none == false }} {{ [1] == [1] }} {{ (1,) == [1] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }}
{{ 1 < 2 }} {{ 2 <= 2 }} {{ 'a' < 'b' }} {{ 'B' < 'a' }} {{ 'é' > 'z' }} {{ [1, 2] < [1, 3] }} {{ (1,) < (1, 0) }} {{ 1 < 1.5 }} {{ true < 2 }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 3 > 2 > 1 }} {{ 1 == 1 == 1 }} {{ 1 < 2 == true }}
{{ 1 in [1, 2] }} {{ 3 not in [1, 2] }} {{ 'a' in 'abc' }} {{ '' in 'abc' }} {{ 'a' in {'a': 1} }} {{ 1 in (1,) }} {{ 1.0 in [1] }} {{ 5 in range(10) }} {{ 'x' in missing }}
{{ not true }} {{ not 0 }} {{ not '' }} {{ not [] }} {{ not {} }} {{ not none }} {{ not missing }} {{ not not 1 }} {{ not 1 == 2 }}
{{ 1 and 2 }} {{ 0 and 2 }} {{ 1 or 2 }} {{ '' or 'x' }} {{ none or false }} {{ [] and x.y }} {{ 1 or x.y }}
{{ 'a' if true else 'b' }} {{ 'a' if false else 'b' }} {{ 'a' if false }}| {{ 'a' if 0 else 'b' if 0 else 'c' }} {{ ('a' if false) is defined }}
{{ 1 if 2 if 0 else 3 else 4 }}
{{ 'x' if messages|length > 2 and messages[0].role == 'system' else 'y' }}
{{ 1 > 2 or 3 > 2 and not false }}
{{ 10 - 2 - 3 }} {{ 100 / 10 / 2 }} {{ 2 * 3 % 4 }} {{ 10 - -3 }} {{ - - 3 }} {{ -3|abs }} {{ -(3)|abs }}
{{ 9007199254740993 == 9007199254740992.0 }} {{ 9007199254740993 > 9007199254740992.0 }} {{ 9223372036854775807 < 1e19 }}
{{ 1 / 0 }}
{{ 1 // 0 }}
{{ 1 % 0 }}
{{ 1.0 / 0 }}
{{ 0 ** -1 }}
{{ 'a' + 1 }}
{{ 1 + 'a' }}
{{ [1] + (2,) }}
{{ none + 1 }}
{{ 'a' - 'b' }}
{{ 'a' * 'b' }}
{{ 'a' * 1.0 }}
{{ {} + {} }}
{{ 1 < 'a' }}
{{ none < 1 }}
{{ {} < {} }}
{{ [1] < ['a'] }}
{{ [1, 'a'] < [2, 3] }}
{{ 1 in 'abc' }}
{{ none in 'abc' }}
{{ 1 in 5 }}
{{ 1 in none }}
{{ [1] in {} }}
{{ -'a' }}
{{ -none }}
{{ 10.0 ** 400 }}
{{ 1 +  }}
{{ * 1 }}
{{ 1 not 2 }}
{{ not }}
{{ 1 == }}
{{ a if }}
{{ 'abc'[0] }} {{ 'abc'[-1] }} {{ 'abc'[5] }}| {{ 'é中😀'[1] }} {{ 'é中😀'[-1] }} {{ [1, 2][1] }} {{ (1, 2)[-1] }} {{ [1][true - 1] }} {{ [1][9] }}|
{{ 'abcdef'[1:3] }} {{ 'abcdef'[:2] }} {{ 'abcdef'[2:] }} {{ 'abcdef'[:-1] }} {{ 'abcdef'[-3:] }} {{ 'abcdef'[::2] }} {{ 'abcdef'[::-1] }} {{ 'abcdef'[4:1:-1] }} {{ 'abcdef'[10:] }}| {{ 'abcdef'[3:1] }}|
{{ 'é中😀x'[1:3] }} {{ 'é中😀x'[::-1] }} {{ 'é中😀x'[-2:] }} {{ 'é中😀x'[::2] }} {{ 'é中😀x'[:99] }}
{{ [1, 2, 3, 4][1:] }} {{ [1, 2, 3][::-1] }} {{ (1, 2, 3)[:2] }} {{ range(10)[2:8:2] }} {{ range(10)[::-1] }} {{ range(10)[3] }} {{ range(10)[-1] }} {{ range(10)[::3] }}
{{ [1, 2, 3][none:none] }} {{ [1, 2, 3][-100:100] }} {{ [1, 2, 3][100:-100:-1] }} {{ [1,2,3][true:] }}
{{ [1, 2][::0] }}
{% set a = [1, 2] %}{{ a['a':] }}
{% set a = {'a': 1} %}{{ a[1:] }}
{{ missing[1:] }}
{% set a = 5 %}{{ a[1:] }}
{% set a = none %}{{ a[1:] }}
{{ messages[1:]|length }} {{ messages[-1].role }} {{ messages[-1]['content'] }} {{ messages[0:2]|map(attribute='role')|list }}
{{ {'a': 1}['a'] }} {{ {'a': 1}.a }} {{ {'a': 1}['b'] }}| {{ {'a': 1}.b }}| {{ {1: 2}[1] }} {{ {1: 2}[1.0] }} {{ {1: 2}[true] }} {{ {'a': 1}[[1]] }}|
{{ {'items': 5}['items'] }} {{ {'items': 5}.items is callable }} {{ {'a': 1}.items() }} {{ {'pop': 5}['pop'] }} {{ {'pop': 5}.pop }}|
{{ none.x }}| {{ 5.x }}| {{ 'abc'.x }}| {{ [].x }}| {{ true.x }}| {{ none['x'] }}| {{ 5['x'] }}| {{ 5[0] }}| {{ none[0] }}| {{ [1]['x'] }}| {{ [1][1.5] }}| {{ 'a'[none] }}|
{{ missing.x }}
{{ missing['x'] }}
{{ messages[0].x.y }}
{{ messages[99].role }}
{{ none.x.y }}
{{ messages.0.role }} {{ messages.1 .role }} {{ [[1, 2]].0.1 }}
{{ x.1.2 }}
{{ messages[0].role.upper() }} {{ messages[0]['role']['upper']() }} {{ messages[0]['get']('role') }}
{{ [1, 2][1, 2] }}|
"""

UNDEFINED = r"""
{{ missing }}|{{ missing is defined }} {{ missing is undefined }} {{ tools is defined }} {{ documents is defined }} {{ messages is defined }} {{ range is defined }}
{{ missing == missing }} {{ missing != missing }} {{ missing == none }} {{ missing == other }} {{ missing in [1] }} {{ missing in [other] }} {{ 1 in missing }}
{{ missing|length }} {{ missing|list }} {{ missing|join(',') }}| {{ missing|upper }}| {{ missing|trim }}| {{ missing|string }}| {{ missing|first }}| {{ missing|last }}| {{ missing|sort }} {{ missing|items|list }} {{ missing|map('upper')|list }}
{{ missing|default('d') }} {{ missing|d('e') }} {{ ''|default('d') }}| {{ ''|default('d', true) }} {{ none|default('d') }} {{ none|default('d', boolean=true) }} {{ missing|default }}| {{ (missing.x is defined) if (missing is defined) else 'no' }}
{{ missing is string }} {{ missing is mapping }} {{ missing is iterable }} {{ missing is sequence }} {{ missing is number }} {{ missing is none }} {{ missing is callable }} {{ missing is true }} {{ missing is false }} {{ missing is boolean }}
{{ [missing] }} {{ {'a': missing} }} {{ '%s' % missing }}| {{ 'a'|replace(missing, '') }} {{ missing|replace('a', 'b') }}|
{% for x in missing %}{{ x }}{% else %}none{% endfor %}
{% if missing %}a{% else %}b{% endif %} {{ 'a' if missing else 'b' }}
{{ missing + 'a' }}
{{ 'a' + missing }}
{{ missing + 1 }}
{{ -missing }}
{{ missing < 1 }}
{{ 1 < missing }}
{{ missing() }}
{{ missing|int }}
{{ missing|float }}
{{ missing|abs }}
{{ missing|tojson }}
{{ [missing]|tojson }}
{{ missing.x }}
{{ missing is odd }}
{{ missing * 2 }}
{{ range(missing) }}
{{ 'a'.replace(missing, 'b') }}
{{ 'a'.startswith(missing) }}
{{ missing|indent }}
{{ missing|round }}
{{ missing in 'abc' }}
{% for a, b in missing %}{% endfor %}ok
{% set x = missing %}{{ x is defined }} {{ x }}|
{{ loop }}|
"""

LOOPS = r"""
{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}
{% for m in messages %}{{ loop.previtem.role if loop.previtem else '-' }}>{{ m.role }}>{{ loop.nextitem.role if loop.nextitem is defined else '-' }};{% endfor %}
{% for m in messages %}{{ loop.cycle('a', 'b', 'c') }}{% endfor %}
{% for m in messages %}{{ loop.changed(m.role) }}{% endfor %} {% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for x in [] %}a{% else %}empty{% endfor %}
{% for x in [1, 2] %}{{ x }}{% else %}empty{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}{{ m.content }};{% endfor %}
{% for m in messages if m.role == 'tool' %}x{% else %}none{% endfor %}
{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}
{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %} {% for v in {'a': 1}.values() %}{{ v }}{% endfor %} {% for k in {'a': 1}.keys() %}{{ k }}{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a }}{{ b }};{% endfor %}
{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in ['xy', [1, 2]] %}{{ a }}{{ b }}{% endfor %}
{% for c in 'aé中' %}[{{ c }}]{% endfor %}
{% for x in range(3) %}{{ x }}{% endfor %} {% for x in range(1, 10, 3) %}{{ x }}{% endfor %} {% for x in range(5, 0, -2) %}{{ x }}{% endfor %}
{% for x in [1, 2, 3, 4] %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in [1, 2] %}{% continue %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% break %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}else{% endfor %}
{% for x in [1, 2] %}{% for y in [1, 2] %}{% if y == 2 %}{% break %}{% endif %}{{ x }}{{ y }};{% endfor %}{% endfor %}
{% for x in [1, 2] %}{% for y in [3, 4] %}{{ loop.index }}{% endfor %}{{ loop.index }};{% endfor %}
{% for x in [1, 2] %}{% for y in [] %}{% else %}{{ loop.index }}{% endfor %}{% endfor %}
{% for x in [1, 2] %}{% for y in [3] if loop.first %}{{ y }}{% endfor %}{% endfor %}
{% for x in [[1, 2], [3]] %}{% for x in x %}{{ x }}{% endfor %}{{ x }};{% endfor %}
{% set x = 9 %}{% for x in [1, 2] %}{{ x }}{% endfor %}{{ x }}
{% for x in [1] %}{% set y = x %}{% endfor %}{{ y }}|
{% set y = 0 %}{% for x in [1, 2] %}{% set y = y + x %}{{ y }}{% endfor %}{{ y }}
{% set ns = namespace(y=0) %}{% for x in [1, 2] %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}
{% for m in messages[::-1] %}{{ m.role }} {% endfor %}
{% for m in messages|reverse %}{{ m.role }}{{ loop.last }} {% endfor %}
{% for m in messages|selectattr('role', 'equalto', 'user') %}{{ loop.index }}{{ loop.last }}{{ loop.length }}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3] if not ns.stop %}{{ x }}{% set ns.stop = x == 2 %}{% endfor %}
{% set ns = namespace(stop=false) %}{% for x in [1, 2, 3] if not ns.stop %}{{ x }}{{ loop.last }}{% set ns.stop = true %}{% endfor %}
{% for x in [1, 2, 3] %}{% if loop.first %}{% continue %}{% endif %}{{ loop.index }}{% endfor %}
{% for x in [1, 2] %}{{ loop }}{% endfor %}
{% for x in [1, 2] %}{{ loop['index'] }}{{ loop.foo is defined }}{{ loop is defined }}{% endfor %}{{ loop is defined }}
{% for m in messages %}{%- if not loop.first %}, {% endif %}{{ m['role'] -}}{% endfor %}
{% for x in 'ab' if x != 'a' %}{{ x }}{% endfor %}
{% for x in [3, 1, 2]|sort %}{{ x }}{% endfor %}
{% for x, in [(1,), (2,)] %}{{ x }}{% endfor %}
{% for x in 1, 2, 3 %}{{ x }}{% endfor %}
{% for x in (1, 2) if x > 1 %}{{ x }}{% endfor %}
{% for x in [1, 2] if x > 1 else [3] %}{{ x }}{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in true %}{% endfor %}
{% for a, b in [1] %}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{% endfor %}
{% for a, b in [(1,)] %}{% endfor %}
{% break %}
{% if true %}{% continue %}{% endif %}
{% for x in [1] %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}
{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% for x in [1] %}{% set loop = 1 %}{% endfor %}
{% for loop in [1] %}{% endfor %}
{% for x in [1] %}{{ loop([2]) }}{% endfor %}
{% for x in [1] %}{{ loop.cycle() }}{% endfor %}
{% for 1 in [1] %}{% endfor %}
{% for x.y in [1] %}{% endfor %}
{% for none in [1] %}{% endfor %}
{% for x in [1, 2, 3] %}{% set z %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endset %}[{{ z }}]{% endfor %}
{% for x in [1, 2, 3] %}{% with y = x %}{% if y == 2 %}{% continue %}{% endif %}{{ y }}{% endwith %}{% endfor %}
{% for x in range(3) %}{% filter upper %}a{{ x }}{% if x == 1 %}{% break %}{% endif %}{% endfilter %}{% endfor %}
"""

SCOPES = r"""
{% set x = 1 %}{{ x }}{% set x = x + 1 %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }} {% set a, b = b, a %}{{ a }}{{ b }}
{% set (a, b) = [3, 4] %}{{ a }}{{ b }}
{% set x = 1, 2 %}{{ x }}
{% set x %}a{{ 1 }}b{% endset %}{{ x }}{{ x is string }}
{% set x | upper %}ab{% endset %}{{ x }} {% set x | upper | replace('A', 'z') %}ab{% endset %}{{ x }}
{% set x %}\n  {{ 1 }}\n{% endset %}[{{ x }}]
{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}|
{% if true %}{% set x = 1 %}{% endif %}{{ x }}
{% if false %}{% set x = 1 %}{% endif %}{{ x }}|
{% if true %}{% set messages = [] %}{% endif %}{{ messages|length }}
{% if false %}{% set messages = [] %}{% endif %}{{ messages|length }}
{% set messages = messages[1:] %}{{ messages|length }}
{% for x in [1] %}{{ bos_token }}{% endfor %}|{% set bos_token = 'b' %}{{ bos_token }}
{% for x in [1] %}{{ bos_token }}{% endfor %}|{% if true %}{% set bos_token = 'b' %}{% endif %}{{ bos_token }}
{{ bos_token }}{% for x in [1] %}{{ bos_token }}{% endfor %}{% set bos_token = 'b' %}{{ bos_token }}
{% for x in [1, 2] %}{% set bos_token = 'b' %}{{ bos_token }}{% endfor %}{{ bos_token }}
{% for x in [1, 2] %}{% for y in [1] %}{{ bos_token }}{% endfor %}|{% set bos_token = 'b' %}{% endfor %}
{% macro f() %}{{ bos_token }}{% endmacro %}{{ f() }}|{% set bos_token = 'b' %}{{ f() }}
{% macro f() %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{% set x = 2 %}{{ f() }}
{% macro f() %}{% set x = 5 %}{{ x }}{% endmacro %}{% set x = 1 %}{{ f() }}{{ x }}
{% set x = 1 %}{% macro f() %}{{ x }}{% set x = 5 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}
{% for x in [1, 2] %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}
{% macro f() %}{{ x }}{% endmacro %}{% for x in [1, 2] %}{{ f() }}{% endfor %}|
{% for x in [1, 2] %}{% macro g() %}{{ loop.index }}{% endmacro %}{{ g() }}{% endfor %}
{{ f() }}{% macro f() %}{% endmacro %}
{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}{{ x }}|
{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% set x = 3 %}{{ x }}{% endwith %}{{ x }}
{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}|
{% with a, b = (1, 2) %}{{ a }}{{ b }}{% endwith %}
{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}|{{ ns.b is defined }}
{% set ns = namespace(a=1, b='x') %}{{ ns }}{{ ns['a'] }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }} {% set ns = namespace([('q', 7)]) %}{{ ns.q }}
{% set ns = namespace(a=1) %}{% set ns.a, ns.b = 5, 6 %}{{ ns.a }}{{ ns.b }}
{% set ns = namespace(a=1) %}{% set ns.a %}text{% endset %}{{ ns.a }}
{% set ns = namespace(items=3) %}{{ ns.items }} {{ ns is mapping }} {{ ns is iterable }} {{ ns is defined }} {{ 'y' if ns else 'n' }} {{ ns == ns }}
{% set d = {} %}{% set d.a = 1 %}
{% set missing.a = 1 %}
{% set ns = namespace(1) %}
{% set ns = namespace(a=1) %}{{ ns|length }}
{% set ns = namespace(a=1) %}{% for x in ns %}{% endfor %}
{% set ns = namespace(a=1) %}{{ ns|tojson }}
{% set none = 1 %}
{% set 1 = 1 %}
{% set 'a' = 1 %}
{% set a.b.c = 1 %}
{% set a[0] = 1 %}
{% set a, b = 1 %}
{% set a, b = 1, 2, 3 %}
{% set x = 1
{% filter upper %}a{{ 'b' }}{% endfilter %} {% filter replace('a', 'c')|upper %}ab{% endfilter %} {% filter trim %}  x {% endfilter %}|
{% print 'a' %}{% print 1, 2 %}
{% generation %}{{ messages[0].content }}{% set g = 1 %}{% endgeneration %}{{ g }}|
{%- generation -%} a {%- endgeneration -%} b
{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{{ loop.index }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}
{% if 1 %}{% elif x.y %}{% endif %}ok {% if 0 %}a{% elif 0 %}b{% elif 1 %}c{% else %}d{% endif %}
{% if true and (false or 1) %}y{% endif %}{% if 1, %}z{% endif %}
{% if false %}{{ 1|nosuch }}{% endif %}ok
{% if true %}{{ 1|nosuch }}{% endif %}ok
{{ 1|nosuch if false else 2 }}
{{ 1 is nosuch }}
{% for x in [] %}{{ 1|nosuch }}{% endfor %}
{% if false %}{% for x in [] %}{{ 1|nosuch }}{% endfor %}{% endif %}
{% if false %}{{ 1 is nosuch }}{% endif %}ok
{% macro f() %}{{ 1|nosuch }}{% endmacro %}
{{ add_generation_prompt }} {{ bos_token }} {{ eos_token }} {{ messages }}
{% set range = 5 %}{{ range }}
{{ raise_exception('no ' ~ 1) }}
{{ raise_exception() }}
{{ raise_exception(1) }}
{% if messages[0].role != 'system' %}{{ raise_exception('x') }}{% endif %}ok
{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }} {{ strftime_now('%B %A %a %j %y %H:%M:%S %% %e %-d %I %p') }} {{ strftime_now(format='%d') if false else '' }}
"""

MACROS = r"""
{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(a=4) }} {{ f(b=5, a=6) }} {{ f() }}|
{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}
{% macro f(a=b, b=1) %}{{ a }}{{ b }}{% endmacro %}{{ f() }}
{% macro f(a) %}{{ a is defined }}{{ a }}{% endmacro %}{{ f() }}
{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}
{% macro f(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ f(1, 2, 3) }}
{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}x{{ 1 }}{% endcall %}
{% macro f() %}[{{ caller(1, 2) }}]{% endmacro %}{% call(a, b=5) f() %}{{ a }}{{ b }}{% endcall %}
{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}
{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}
{% macro f() %}  a\n{% endmacro %}[{{ f() }}]
{% macro f() %}a{% endmacro %}{{ f }} {{ f is callable }} {{ f() ~ f() }} {{ f()|upper }} {{ f() is string }}
{% macro f(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ f(1) }}]
{% macro f(d) %}{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}{% endmacro %}{{ f({'a': 1}) }}
{% macro f(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ f(*[1, 2]) }} {{ f(**{'a': 3, 'b': 4}) }} {{ f(5, *[6]) }} {{ f(*[7], **{'b': 8}) }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=1) }}
{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}
{% macro f(a, a) %}{% endmacro %}
{% macro f(a=1, b) %}{% endmacro %}
{% macro f %}{% endmacro %}
{% macro f(a.b) %}{% endmacro %}
{{ range(a=1) }}
{{ dict(a=1, a=2) }}
{% macro f() %}{% endmacro %}{{ f(x=1, x=2) }}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{% macro f() %}x{% endmacro %}{% call f() %}{% endcall %}
{% call 5 %}{% endcall %}
{% call range(3) %}{% endcall %}
{{ range(3) }} {{ range(3)|list }} {{ range(0) | list }} {{ range(5, 2)|list }} {{ range(3)|length }} {{ range(2, 8, 3)|list }} {{ range(3) == range(0, 3) }}
{{ range(100001) }}
{{ range(1, 2, 0) }}
{{ range() }}
{{ range('a') }}
{{ range(1.5) }}
{{ range(1, 2, 3, 4) }}
{{ dict(a=1, b=2) }} {{ dict({'x': 1}, y=2) }} {{ dict([('a', 1), ['b', 2]]) }} {{ dict() }}
{{ dict(1) }}
{{ dict([1]) }}
{% set j = joiner(', ') %}{% for x in [1, 2, 3] %}{{ j() }}{{ x }}{% endfor %} {% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.current }}{{ c.next() }}{{ c.next() }}{{ c.reset() }}{{ c.current }}
{{ 'a'() }}
{{ none() }}
{{ 5() }}
{{ messages() }}
{% macro f(x) %}{% set x = x ~ 'y' %}{{ x }}{% endmacro %}{% set x = 'q' %}{{ f(x) }}{{ x }}
{% macro outer() %}{% macro inner() %}in{% endmacro %}{{ inner() }}{% endmacro %}{{ outer() }}{{ inner is defined }}
{% macro f(n) %}{% for i in range(n) %}{{ loop.index }}{% endfor %}{% endmacro %}{% for x in [1, 2] %}{{ f(x) }}{{ loop.index }};{% endfor %}
{% set f = messages[0].get %}{{ f('role') }}
{% macro f(a, b='x', c=none) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f('1', c='3') }}
{% macro f(x) %}{{ x }}{% endmacro %}{{ ['a', 'b']|map('upper')|join(f('-')) }}
"""

STRINGS = r"""
[{{ '  a b  '.strip() }}] [{{ '  a'.lstrip() }}] [{{ 'a  '.rstrip() }}] [{{ 'xxaxx'.strip('x') }}] [{{ 'abcba'.lstrip('ab') }}] [{{ 'abcba'.rstrip('ab') }}] [{{ '\u00a0a\u3000'.strip() }}] [{{ 'ééaé'.strip('é') }}] [{{ ' a '.strip(none) }}]
{{ 'a b  c'.split() }} {{ 'a,b,,c'.split(',') }} {{ 'a b c'.split(' ', 1) }} {{ ' a  b c '.split(none, 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'aXXbXXc'.split('XX', maxsplit=1) }} {{ 'a b'.split(sep=' ') }} {{ '\u00a0a\u2003b'.split() }}
{{ 'a b  c'.rsplit() }} {{ 'a,b,c'.rsplit(',', 1) }} {{ ' a  b c '.rsplit(none, 1) }} {{ 'a,b,c'.rsplit(',', 0) }} {{ 'aaa'.rsplit('aa') }} {{ 'é中 😀 x'.rsplit(none, 1) }}
{{ 'a\nb\r\nc\rd\n'.splitlines() }} {{ 'a\nb\n'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a\u2028b\x0bc'.splitlines() }} {{ 'a\n\nb'.splitlines(keepends=true) }}
{{ 'aBc dEf'.upper() }} {{ 'aBc'.lower() }} {{ "hello wORLD it's 3rd x".title() }} {{ 'hELLO'.capitalize() }} {{ 'aBc'.swapcase() }} {{ 'éÉ'.upper() }} {{ 'ÀÉ'.lower() }} {{ 'дом'.upper() }} {{ 'ABC'.casefold() }} {{ 'éa bÉ'.title() }} {{ 'éA'.capitalize() }}
{{ 'abc'.startswith('ab') }} {{ 'abc'.startswith('b', 1) }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('c') }} {{ 'abc'.endswith('b', 0, 2) }} {{ 'abc'.startswith('') }} {{ 'abc'.startswith('', 4) }} {{ 'é中'.startswith('中', 1) }} {{ 'abc'.endswith(('b', 'c')) }} {{ 'abc'.startswith('abcd') }}
{{ 'aXbXc'.replace('X', '-') }} {{ 'aXbXc'.replace('X', '-', 1) }} {{ 'abc'.replace('', '-') }} {{ 'abc'.replace('', '-', 2) }} {{ ''.replace('', 'x') }} {{ 'aaa'.replace('aa', 'b') }} {{ 'é中'.replace('', '.') }} {{ 'abc'.replace('b', '') }}
{{ ','.join(['a', 'b']) }} {{ ''.join('abc') }} {{ '-'.join([]) }}| {{ ', '.join({'a': 1, 'b': 2}) }}
{{ 'abcabc'.find('c') }} {{ 'abcabc'.rfind('c') }} {{ 'abc'.find('x') }} {{ 'é中中'.find('中') }} {{ 'é中中'.rfind('中') }} {{ 'abc'.find('', 3) }} {{ 'abc'.find('', 4) }} {{ 'abcabc'.find('c', 3) }} {{ 'abcabc'.find('c', -2, -1) }} {{ 'abc'.index('b') }} {{ 'abcb'.rindex('b') }} {{ 'abc'.rfind('') }}
{{ 'banana'.count('a') }} {{ 'banana'.count('ana') }} {{ 'abc'.count('') }} {{ 'banana'.count('a', 2) }} {{ 'é中'.count('') }}
{{ 'abc'.isalpha() }} {{ 'ab1'.isalpha() }} {{ '123'.isdigit() }} {{ 'ab1'.isalnum() }} {{ ' \t'.isspace() }} {{ 'abc'.islower() }} {{ 'ABC'.isupper() }} {{ 'Ab Cd'.istitle() }} {{ ''.isalpha() }} {{ 'é'.isalpha() }} {{ 'abc'.isascii() }} {{ 'é'.isascii() }} {{ '12'.isdecimal() }} {{ '12'.isnumeric() }} {{ 'a_1'.isidentifier() }} {{ '1a'.isidentifier() }} {{ 'a\n'.isprintable() }} {{ ''.isprintable() }} {{ 'a1'.islower() }} {{ '1'.islower() }} {{ 'a b'.isalnum() }} {{ '中文'.isalpha() }} {{ '12a'.isdigit() }}
[{{ 'ab'.center(6) }}] [{{ 'ab'.center(5) }}] [{{ 'abc'.center(6, '*') }}] [{{ 'ab'.ljust(5) }}] [{{ 'ab'.rjust(5, '.') }}] {{ '42'.zfill(5) }} {{ '-42'.zfill(5) }} {{ '+4'.zfill(1) }} [{{ 'é'.center(3, '中') }}]
{{ 'abc'.removeprefix('a') }} {{ 'abc'.removesuffix('c') }} {{ 'abc'.removeprefix('x') }} {{ 'a-b-c'.partition('-') }} {{ 'a-b-c'.rpartition('-') }} {{ 'abc'.partition('-') }} {{ 'abc'.rpartition('-') }}
{{ '{} {}'.format(1, 'a') }} {{ '{0}{1}{0}'.format('x', 'y') }} {{ '{a}-{b}'.format(a=1, b=2) }} {{ '{{}}{}'.format(1) }} {{ '{!r}'.format('a') }} {{ '{0[a]}{0[b][1]}'.format({'a': 1, 'b': [5, 6]}) }} {{ '{0.a}'.format({'a': 1}) }} {{ '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd') }} {{ '{:5d}|{:05d}|{:x}|{:.2f}|{:+d}|{:.1%}|{:8.3f}|{:<6}|{:e}'.format(42, 42, 255, 3.14159, 5, 0.256, 2.5, 7, 12345.678) }} {{ '{:.2}'.format('abc') }} {{ '{}'.format(missing) }}| {{ '{} {}'.format(none, [1]) }}
{{ '%s %d %05d %.2f %x %r %% %-5s| %5s %+d % d %e %g %i %c' % ('a', 1, 42, 3.14159, 255, 'q', 'l', 'r', 3, 4, 1234.5, 0.0001, 7, 'z') if false else '%s %d %05d %.2f %x %r %% %-5s| %5s %+d % d %e %g %i' % ('a', 1, 42, 3.14159, 255, 'q', 'l', 'r', 3, 4, 1234.5, 0.0001, 7) }}
{{ '%s' % 'a' }} {{ '%s' % [1] }} {{ '%s' % none }} {{ '%(a)s %(b)d' % {'a': 1, 'b': 2} }} {{ '%s' % {'a': 1} }} {{ 'x' % [] }} {{ '%d' % 3.9 }} {{ '%d' % true }} {{ '%s' % ((1, 2),) }} {{ '%.2s' % 'abc' }} {{ '%5.1f' % 2.25 }}
{{ 'a'|format }} {{ '%s-%s'|format(1, 2) }} {{ '%(a)s'|format(a=1) }}
{{ 'abc'.nosuch() }}
{{ 'abc'.upper(1) }}
{{ 'abc'.split('') }}
{{ 'abc'.index('x') }}
{{ 'abc'.startswith(1) }}
{{ 'abc'.startswith(['a']) }}
{{ 'abc'.strip(1) }}
{{ 'abc'.replace('a') }}
{{ 'abc'.replace(1, 2) }}
{{ ','.join([1]) }}
{{ ','.join(5) }}
{{ 'abc'.center('x') }}
{{ '%s %s' % 'a' }}
{{ '%d' % 'a' }}
{{ '%s' % () }}
{{ 'a' % 1 }}
{{ '%' % 1 }}
{{ '%(a)s' % 1 }}
{{ '{}'.format() }}
{{ '{a}'.format() }}
{{ '{'.format() }}
{{ '}'.format() }}
{{ '{} {0}'.format(1) }}
{{ '{0} {}'.format(1) }}
{{ '%s %s' % ('a', 'b', 'c') }}
{{ 'abc'.zfill() }}
{{ messages[3].content|length }} {{ messages[3].content[-1] }} {{ messages[2].content.split('</think>')[-1].lstrip('\n') }}
{{ messages[2].content.split('</think>')[0].split('<think>')[-1].strip() }}
"""

CONTAINERS = r"""
{{ {'a': 1}.get('a') }} {{ {'a': 1}.get('b') }} {{ {'a': 1}.get('b', 2) }} {{ {'a': 1}.get('b', default=2) if false else '' }} {{ {'a': 1}.keys() }} {{ {'a': 1}.values() }} {{ {'a': 1}.items() }} {{ {'a': 1}.copy() }} {{ {'a': 1}.items()|list }} {{ {'a': 1}.keys()|list }} {{ {'a': 1}.items()|length }}
{{ {'a': 1}.items() is iterable }} {{ {'a': 1}.items() is sequence }} {{ {'a': 1}.items() is mapping }} {{ {'a': 1}.keys()|first }} {{ {'a': 1, 'b': 2}.keys()|last }} {{ 'a' in {'a': 1}.keys() }} {{ 1 in {'a': 1}.values() }} {{ ('a', 1) in {'a': 1}.items() }} {{ {}.items() is true }} {{ 'y' if {}.items() else 'n' }}
{{ [1, 2, 1].count(1) }} {{ [1, 2].index(2) }} {{ (1, 2, 1).count(1) }} {{ (1, 2).index(2) }} {{ [1].copy() }}
{{ [].append }}| {{ {}.update }}| {{ [].append is defined }}
{{ [].append(1) }}
{{ {}.update({'a': 1}) }}
{{ {}.pop('a') }}
{{ messages.append({}) }}
{{ {'a': 1}.get() }}
{{ {'a': 1}.get([]) }}
{{ [1].index(5) }}
{{ {}.nosuch() }}
{{ {'a': 1}.items()[0] }}|
{{ {'a': 1}.items()[0][0] }}
{{ [[1, [2, {'a': (3,)}]], 'x'] }} {{ {'a': {'b': []}} }} {{ [none, true, 1.0, 'é'] }}
{{ [1, 2] is iterable }} {{ [1] is sequence }} {{ 'a' is sequence }} {{ {} is sequence }} {{ {} is mapping }} {{ [] is mapping }} {{ (1,) is sequence }} {{ 1 is sequence }} {{ 1 is iterable }} {{ range(2) is sequence }} {{ 'a' is iterable }} {{ none is iterable }}
{{ 1 is number }} {{ 1.0 is number }} {{ true is number }} {{ '1' is number }} {{ 1 is integer }} {{ true is integer }} {{ 1.0 is integer }} {{ 1.0 is float }} {{ 1 is float }} {{ true is boolean }} {{ 1 is boolean }} {{ true is true }} {{ 1 is true }} {{ false is false }} {{ 0 is false }} {{ none is none }} {{ 0 is none }} {{ 'a' is string }} {{ 1 is string }}
{{ 2 is even }} {{ 3 is odd }} {{ 2 is odd }} {{ 4 is divisibleby 2 }} {{ 5 is divisibleby(2) }} {{ 2.0 is even }} {{ true is odd }} {{ -3 is odd }}
{{ 1 is eq 1 }} {{ 1 is equalto(2) }} {{ 1 is ne 2 }} {{ 1 is lt 2 }} {{ 1 is le 1 }} {{ 2 is gt 1 }} {{ 2 is ge 3 }} {{ 1 is lessthan 2 }} {{ 2 is greaterthan 1 }} {{ 'a' is in ['a'] }} {{ 'a' is in 'abc' }} {{ 1 is not in [2] }} {{ 1 is sameas 2 if false else '' }} {{ none is sameas none }} {{ true is sameas true }} {{ 1 is sameas true }}
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'aBc' is lower }} {{ 1 is lower }} {{ 'upper' is filter }} {{ 'nosuch' is filter }} {{ 'odd' is test }} {{ 'groupby' is filter }} {{ range is callable }} {{ 1 is callable }} {{ 'x' is escaped }} {{ ('x'|safe) is escaped }}
{{ 1 is not none }} {{ not 1 is none }} {{ 1 is not defined }} {{ 'a' is string and 'b' is string }} {{ 1 is defined or x }} {{ 'y' if x is not defined else 'n' }} {{ x is defined and x }}
{{ 1 is divisibleby }}
{{ 1 is divisibleby 0 }}
{{ 'a' is odd if false else 1 }} {{ none is odd if false else 1 }}
{{ none is odd }}
{{ 1 is in 5 }}
{{ 1 is lt 'a' }}
{{ 1 is string is string }}
{{ 1 is defined 2 3 }}
{{ 1 is string(1) }}
{{ 1 is }}
{{ 1 is not }}
{{ x is defined if y else z }}
"""

FILTERS = r"""
{{ ' a '|trim }}| {{ 'xax'|trim('x') }} {{ 5|trim }} {{ none|trim }} {{ [1]|trim }} {{ ' a '|trim(chars=' ') }}|
{{ 'abc'|length }} {{ 'é中😀'|length }} {{ [1, 2]|count }} {{ {}|length }} {{ 'aB'|upper }} {{ 'aB'|lower }} {{ 5|upper }} {{ none|lower }} {{ true|upper }} {{ "hello wORLD-foo (bar) it's"|title }} {{ 'hELLO wORLD'|capitalize }} {{ 'a_b c\td'|title }}
{{ [1, 2]|join }} {{ [1, 'a', none, true]|join(', ') }} {{ 'abc'|join('-') }} {{ messages|join(', ', attribute='role') }} {{ [{'a': {'b': 1}}]|join(attribute='a.b') }} {{ [[1, 2], [3, 4]]|join(',', attribute=1) }} {{ {'a': 1}|join }} {{ [1, 2]|join(0) }}
{{ [1, 2]|first }} {{ 'abc'|first }} {{ []|first }}| {{ {'a': 1}|first }} {{ [1, 2]|last }} {{ 'abé'|last }} {{ []|last }}| {{ {'a': 1, 'b': 2}|last }} {{ range(5)|last }} {{ (1, 2)|first }}
{{ 'abc'|list }} {{ {'a': 1}|list }} {{ range(2)|list }} {{ (1, 2)|list }} {{ ''|list }} {{ 'é中'|list }}
{{ 'aXb'|replace('X', '-') }} {{ 'aaa'|replace('a', 'b', 2) }} {{ 121|replace(1, 3) }} {{ 'abc'|replace(old='a', new='b') }} {{ 'aaa'|replace('a', 'b', count=1) }} {{ none|replace('None', 'x') }}
{{ 5|string }} {{ none|string }} {{ [1]|string }} {{ '5'|int }} {{ 'x'|int }} {{ 'x'|int(7) }} {{ '5.9'|int }} {{ 5.9|int }} {{ -5.9|int }} {{ true|int }} {{ none|int }} {{ ' 12 '|int }} {{ '1_000'|int }} {{ '0x1F'|int(base=16) }} {{ '1f'|int(0, 16) }} {{ '101'|int(0, 2) }} {{ [1]|int }} {{ ''|int }} {{ '1e3'|int }} {{ '+5'|int }} {{ '-5'|int }} {{ 'inf'|int }} {{ 'nan'|int }} {{ '5_'|int }} {{ '--5'|int }}
{{ '5.5'|float }} {{ 'x'|float }} {{ 'x'|float(1.5) }} {{ 5|float }} {{ none|float }} {{ '1e3'|float }} {{ ' 1.5 '|float }} {{ '.5'|float }} {{ '5.'|float }} {{ 'inf'|float }} {{ '-Infinity'|float }} {{ 'nan'|float }} {{ '1_0.5'|float }} {{ '0x10'|float }} {{ true|float }} {{ '1e'|float }}
{{ -5|abs }} {{ (-5)|abs }} {{ (-5.5)|abs }} {{ true|abs }} {{ 2.5|round }} {{ 3.5|round }} {{ 2.567|round(2) }} {{ 5|round }} {{ 5.0|round }} {{ 2.1|round(method='ceil') }} {{ 2.9|round(0, 'floor') }} {{ 2.555|round(2) }} {{ 42.55|round(1, 'floor') }} {{ -2.5|round }} {{ (-2.5)|round }} {{ 0.5|round }} {{ 1.5|round|int }} {{ true|round }} {{ 7|round(1, 'ceil') }} {{ (-0.3)|round(0, 'ceil') }} {{ 1e300|round }}
{{ {'b': 1, 'a': 2}|items|list }} {{ {'b': 1, 'a': 2, 'C': 0}|dictsort }} {{ {'b': 1, 'a': 2}|dictsort(by='value') }} {{ {'b': 1, 'a': 2}|dictsort(reverse=true) }} {{ {'b': 1, 'a': 2, 'C': 0}|dictsort(true) }} {{ {'b': 'x', 'a': 'Y'}|dictsort(false, 'value') }}
{{ messages|map(attribute='role')|list }} {{ messages|map(attribute='x', default='d')|list }} {{ ['a', 'b']|map('upper')|list }} {{ [1, 2]|map('string')|join }} {{ [[1, 2], [3]]|map('join', ',')|list }} {{ [{'a': [1, 2]}]|map(attribute='a.1')|list }} {{ messages|map(attribute='content')|map('trim')|map('length')|list }} {{ ['a b', 'c']|map('replace', 'a', 'x')|list }} {{ []|map('upper')|list }} {{ none|map('upper')|list }} {{ ['x']|map('default', 'd')|list }}
{{ [1, 2, 3, 4]|select('even')|list }} {{ [1, 2, 3]|reject('odd')|list }} {{ [0, 1, '', 'a', none]|select|list }} {{ [0, 1, '', 'a']|reject|list }} {{ [1, 2, 3]|select('gt', 1)|list }} {{ ['a', 'b']|select('in', ['a'])|list }} {{ [1, 'a', none]|select('string')|list }} {{ [1, 2]|select('==', 1)|list }}
{{ messages|selectattr('role', 'equalto', 'user')|list|length }} {{ messages|selectattr('role', '==', 'system')|map(attribute='content')|list }} {{ messages|rejectattr('role', 'eq', 'user')|map(attribute='role')|list }} {{ messages|selectattr('tool_calls')|list }} {{ messages|selectattr('tool_calls', 'defined')|list }} {{ messages|rejectattr('tool_calls', 'defined')|list|length }} {{ messages|selectattr('role', 'in', ['user', 'tool'])|list|length }} {{ [{'a': {'b': 1}}, {'a': {'b': 0}}]|selectattr('a.b')|list }} {{ messages|selectattr('content', 'string')|list|count }}
{{ [3, 1, 2]|sort }} {{ [3, 1, 2]|sort(reverse=true) }} {{ ['b', 'A', 'c']|sort }} {{ ['b', 'A', 'c']|sort(case_sensitive=true) }} {{ messages|sort(attribute='role')|map(attribute='role')|list }} {{ [{'a': 2, 'b': 1}, {'a': 1, 'b': 2}, {'a': 1, 'b': 1}]|sort(attribute='a,b') }} {{ 'hello'|sort }} {{ {'b': 1, 'a': 2}|sort }} {{ [1, 2.5, true]|sort }} {{ [[2, 1], [1, 2]]|sort }} {{ [(1, 'b'), (1, 'a')]|sort(attribute=0) }} {{ [(1, 'b'), (1, 'a'), (0, 'c')]|sort(attribute='0', reverse=true) }}
{{ [1, 2, 1, 'a', 'A']|unique|list }} {{ ['a', 'A']|unique(case_sensitive=true)|list }} {{ messages|unique(attribute='role')|map(attribute='role')|list }} {{ [1, 1.0, true]|unique|list }}
{{ 'abc'|reverse }} {{ [1, 2, 3]|reverse|list }} {{ 'é中'|reverse }} {{ {'a': 1, 'b': 2}|reverse|list }} {{ [1, 2]|map('string')|reverse|list }} {{ range(3)|reverse|list }}
{{ 'a\nb\n\nc'|indent }} {{ 'a\nb'|indent(2, true) }} {{ 'a\n\nb'|indent(2, blank=true) }} {{ 'a\nb'|indent('> ') }} {{ 'a\n'|indent }}| {{ ''|indent }}| {{ 'a\nb'|indent(width=2, first=true) }} {{ 'a\r\nb\r'|indent(1) }}| {{ '\n'|indent(2, true, true) }}|
{{ [1, 2, 3]|min }} {{ [1, 2, 3]|max }} {{ []|min }}| {{ ['b', 'A']|min }} {{ ['b', 'A']|max }} {{ ['b', 'A']|min(case_sensitive=true) }} {{ [{'a': 1}, {'a': 2}]|max(attribute='a') }} {{ [1, 2]|sum }} {{ []|sum }} {{ [{'a': 1}, {'a': 2}]|sum(attribute='a') }} {{ [1.5, 2]|sum(start=10) }} {{ [[1], [2]]|sum(start=[]) }} {{ [true, true]|sum }}
{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 'x')|list }} {{ [1, 2, 3, 4, 5]|slice(2)|list }} {{ [1, 2, 3]|slice(2, 'x')|list }} {{ []|batch(2)|list }} {{ [1]|slice(3)|list }}
{{ 'hello world'|truncate(5) }} {{ 'hello big world'|truncate(11) }} {{ 'hello big world of'|truncate(9, true) }} {{ 'hello big world'|truncate(9, false, '..', 0) }} {{ 'foo bar baz qux'|truncate(9) }} {{ 'abc'|truncate(3) }} {{ 'helloworldhello'|truncate(6, leeway=0) }} {{ 'é中 é中é中é中é中'|truncate(6) }}
{{ 'a b/c?d=é'|urlencode }} {{ 5|urlencode }} {{ 'one two-three it\'s'|wordcount }} [{{ 'ab'|center(6) }}] {{ 'ab'|center|length }}
{{ '<a href="x">&\'</a>'|escape }} {{ '<'|e }} {{ '<'|safe }} {{ '<'|escape|escape }} {{ ('<'|safe) + '<' }} {{ '<' + ('<'|safe) }} {{ ('<'|safe) ~ '<' }} {{ '<'|forceescape }} {{ ('<'|safe) == '<' }} {{ ('ab'|safe)|length }} {{ '<'|e|string }} {{ none|e }} {{ ('<'|safe)|tojson }} {{ 'b' in ('abc'|safe) }} {{ [('a'|safe)] }} {{ ('<'|e)|replace('&', 'x') }} {{ 'a' ~ ('<'|e) ~ 'b' }}
{{ 'x'|tojson }} {{ 'é"\\/\n\t\x01\x7f\u2028<>&\''|tojson }} {{ [1, 1.5, true, none, 'a', [], {}, (1, 2)]|tojson }} {{ {'a': 1, 'b': {'c': []}}|tojson }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }} {{ 1e20|tojson }} {{ (1e308 * 10)|tojson }} {{ messages|tojson }}
{{ {'a': [1, {'b': 2}], 'c': {}, 'd': []}|tojson(indent=2) }} {{ [1, 2]|tojson(indent=4) }} {{ {'b': 1, 'a': 2}|tojson(sort_keys=true) }} {{ {'a': [1, 2]}|tojson(separators=(',', ':')) }} {{ [1]|tojson(indent=0) }} {{ [1]|tojson(indent='--') }} {{ {'a': 1}|tojson(ensure_ascii=false) }} {{ [[1], [2]]|tojson(indent=1, separators=(';', '=')) }} {{ {'a': none}|tojson(indent=none) }}
{{ messages[0]|tojson(indent=4) }} {{ 'a'|tojson|length }} {{ {'a': 1}|tojson|replace('"', "'") }}
{{ 5|length }}
{{ none|length }}
{{ 5|join }}
{{ 5|list }}
{{ none|list }}
{{ 5|first }}
{{ 5|last }}
{{ 5|items }}
{{ [1, 'a']|sort }}
{{ [{}, {'a': 1}]|sort }}
{{ [{}]|unique|list }}
{{ 5|dictsort }}
{{ [1]|map('nosuch')|list }}
{{ [1]|map|list }}
{{ [1]|select('nosuch')|list }}
{{ [1]|selectattr|list }}
{{ 5|map('upper')|list }}
{{ [1]|map(attribute='a.b')|list }}
{{ 'a'|abs }}
{{ 'a'|round }}
{{ 1|round(0, 'x') }}
{{ 5|indent }}
{{ ['a']|sum }}
{{ [1, 2]|map('upper')|length }}
{{ [1, 2]|map('upper')|last }}
{{ [1]|reverse|length }}
{{ range(3)|tojson }}
{{ [range]|tojson }}
{{ {(1, 2): 3}|tojson }}
{{ [1]|map('string')|tojson }}
{{ 'a'|upper(1) }}
{{ 'a'|replace('a') }}
{{ 'a'|default(1, 2, 3) }}
{{ 'a'|trim(1) }}
{{ 'a'|nosuch }}
{{ 'a'| }}
{{ 'a'|1 }}
{{ [3, 1]|min|string ~ 'x' }} {{ 'a'|upper|lower|upper }} {{ 'a,b'.split(',')|map('upper')|join('|') }} {{ (1, 2)|sum + 1 }} {{ ('abc'|upper)[0] }}
{{ 'abc'|upper[0] }}
{% set g = [1, 2, 3]|map('string') %}{{ g|first }}{{ g|list }}{{ g|list }}{{ 'y' if g else 'n' }} {{ g[0] }}| {{ g is iterable }} {{ g is sequence }} {{ g is string }}
{% set g = [1, 2]|reverse %}{{ g|list }}{{ g|list }}
{% set g = [1, 2, 3]|select('odd') %}{{ 2 in g }} {{ g|list }}
{% set g = [1]|map('nosuch') %}ok
"""

REFUSED = r"""
{{ 9223372036854775808 }}
{{ 9223372036854775807 + 1 }}
{{ 2 ** 64 }}
{{ 'ß'.upper() }}
{{ 'ΑΣ'.lower() }}
{{ '\ud83d' == 'x' }}
{{ '\N{BULLET}' }}
{% set é = 1 %}{{ é }}
{{ self }}
{% block a %}x{% endblock %}
{% autoescape true %}{{ '<' }}{% endautoescape %}
{% for x in [1] recursive %}{{ x }}{% endfor %}
{{ [{'a': 1}]|groupby('a') }}
{{ 1024|filesizeformat }}
{{ {'a': 1}|xmlattr }}
{{ 'a b'|wordwrap(1) }}
{{ 'a'.encode() }}
{{ '²'.isdigit() }}
{{ 1.5.is_integer() }}
{{ ('a'|safe).upper() }}
{{ 'a'|tojson(ensure_ascii=true) }}
{{ 7 is sameas 7 }}
{{ (-8) ** 0.5 }}
{{ 1234.5|round(-2) }}
{{ '{:,}'.format(1234) }}
{% macro f() %}{% endmacro %}{{ f.name }}
"""

MORE = [
    ("{% for m in messages %}{{ m.role }}{% endfor %}", []),
    ("{{ messages[0].role }}", []),
    ("{{ messages[0] }}|{{ messages|length }}|{{ messages[-1] is defined }}", []),
    ("{{ messages[-1].content }}", [{"role": "user", "content": ""}]),
    ("{{ messages|tojson }}", [{"role": "user", "content": "\u0001\u001f\"\\/\u2028\u00e9"}]),
    ("{{ messages }}", [{"role": "user", "content": "it's \"q\" \u200b\u00ad\ufeff\n"}]),
    ("{{ messages[0].content|length }} {{ messages[0].content[::-1] }} {{ messages[0].content|upper }}",
     [{"role": "user", "content": "na\u00efve \u4e2d\u6587 \U0001f468\u200d\U0001f469"}]),
    ("{{ messages[0].content.strip().split('\\n')|map('trim')|list }}", [{"role": "user", "content": "\n a \r\n b\n\n"}]),
    ("{{ messages[0].content|trim|indent(4) }}", [{"role": "user", "content": " line1\n\n line2\r\nline3 "}]),
]


def main():
    cases = []

    def add(template, messages=MESSAGES, refused=False):
        for prompt in (False, True) if "add_generation_prompt" in template else (False,):
            case = {"template": template}
            if prompt:
                case["add_generation_prompt"] = True
            if messages is not MESSAGES:
                case["messages"] = messages
            try:
                case["out"] = environment().from_string(template).render(
                    messages=messages, add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>")
            except RecursionError:
                case["error"] = "RecursionError"
            except Exception as e:
                case["error"] = f"{type(e).__name__}: {e}"
            if " at 0x" in case.get("out", ""):
                del case["out"]
                case["error"] = "prints an address"
            if refused:
                case["refused"] = True
            try:
                case.get("out", "").encode()
            except UnicodeEncodeError:
                case["out"] = "?"
            cases.append(case)

    for group in (SPACE, LITERALS, OPERATORS, UNDEFINED, LOOPS, SCOPES, MACROS, STRINGS, CONTAINERS, FILTERS):
        for line in group.strip("\n").split("\n"):
            if group is SPACE:
                line = line.encode("ascii").decode("unicode-escape")
            add(line)
    add("{%\nset\nx\n=\n1\n%}{{\nx\n}}")
    add("{{ 'a\\\nb' }}")
    for line in REFUSED.strip("\n").split("\n"):
        add(line, refused=True)
    for template, messages in MORE:
        add(template, messages)
    with open("tests/golden/chat/features.json", "w") as f:
        f.write('{"messages": ' + json.dumps(MESSAGES) + ', "cases": [\n')
        f.write(",\n".join(json.dumps(c) for c in cases) + "\n]}\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "errors")


main()
