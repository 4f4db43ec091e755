/** Builds prompts about code, as messages. */
import type { Message } from "mlxd-client";

export interface Turn {
  role: "user" | "assistant";
  text: string;
}

export function fenced(code: string, language: string): string {
  const fence = code.includes("```") ? "````" : "```";
  return `${fence}${language}\n${code}\n${fence}`;
}

/** Return a prompt with the code that it refers to. */
export function question(prompt: string, code: string, language: string, inPlace = false): string {
  if (!code.trim()) return prompt;
  const rule = inPlace ? "\n\nAnswer with the new text alone." : "";
  return `${prompt}\n\n${fenced(code, language)}${rule}`;
}

export function messagesOf(system: string, turns: Turn[], prompt: string): Message[] {
  const head: Message[] = system ? [{ role: "system", content: system }] : [];
  const before = turns.filter((turn) => turn.text.trim());
  return [...head, ...before.map(({ role, text }): Message => ({ role, content: text })), { role: "user", content: prompt }];
}

/** Return the text without a Markdown fence around it. */
export function bare(text: string): string {
  const inside = /^\s*```[^\n]*\n([\s\S]*?)\n?```\s*$/.exec(text);
  return inside?.[1] ?? text;
}
