"""Llama-2-chat's dialogue format as a Jinja template, for programs that render it themselves.

Meta's ``generation.py``: ``[INST] user [/INST] answer``, each turn between BOS and EOS; a system
message is folded into the first user message between ``<<SYS>>`` lines. Only filters that every
Jinja dialect has (``| trim`` rather than Python's ``.strip()``).
"""

from __future__ import annotations

CHAT_TEMPLATE = """\
{%- if messages and messages[0]['role'] == 'system' -%}
  {%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
  {%- set turns = messages[1:] -%}
{%- else -%}
  {%- set system = '' -%}
  {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
  {%- if turn['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
    {{- raise_exception('after an optional system message, user and assistant must take turns') -}}
  {%- elif turn['role'] == 'user' -%}
    {%- set said = (system + turn['content']) if loop.first else turn['content'] -%}
    {{- bos_token + '[INST] ' + (said | trim) + ' [/INST]' -}}
  {%- else -%}
    {{- ' ' + (turn['content'] | trim) + ' ' + eos_token -}}
  {%- endif -%}
{%- endfor -%}
"""


def is_chat(model: str) -> bool:
    """Whether a model that no catalogue describes is made for dialogue, by its name."""
    return any(word in model.lower() for word in ("chat", "instruct"))
