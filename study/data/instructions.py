"""A chat template without special tokens, with a system prompt where a dialogue has none.

It stands for a template other than a study's own: the words that precede a turn are
those of Alpaca's prompts (tatsu-lab/stanford_alpaca), and EOS ends an answer.
"""

INSTRUCTIONS = (
    "{% if messages[0]['role'] != 'system' %}{{ 'You are a helpful assistant.\n\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
