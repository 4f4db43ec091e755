"""Sends a question to an OpenAI-style server with the openai package: PORT QUESTION."""

import sys

from openai import OpenAI

client = OpenAI(base_url=f"http://127.0.0.1:{sys.argv[1]}/v1", api_key="none")
answer = client.chat.completions.create(
    model="default_model",
    messages=[{"role": "user", "content": sys.argv[2]}],
    max_tokens=16,
    stream=True,
)
for piece in answer:
    print(piece.choices[0].delta.content or "", end="", flush=True)
