/** Types of the protocol, which protocol/SPEC.md describes. Sizes are in bytes, times in seconds. */

export interface Message {
  role: "system" | "user" | "assistant" | "tool";
  content: string;
}

/** Options of a completion. The daemon has a default for each. */
export interface Options {
  model?: string;
  max_tokens?: number;
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  min_tokens_to_keep?: number;
  xtc_probability?: number;
  xtc_threshold?: number;
  repetition_penalty?: number;
  repetition_context_size?: number;
  presence_penalty?: number;
  frequency_penalty?: number;
  /** Token id to a number that is added to its logit. */
  logit_bias?: Record<string, number>;
  seed?: number;
  stop?: string[];
  n?: number;
  /** Return log-probabilities; a number: with that many alternatives. */
  logprobs?: number | boolean;
  ignore_eos?: boolean;
  schema?: object | boolean;
  regex?: string;
  grammar?: string;
  thinking?: boolean;
  priority?: "interactive" | "completion" | "batch";
  deadline_s?: number;
  /** The newest request with this key cancels the older ones. */
  supersede?: string;
  keep_alive_s?: number;
  adapter?: string;
  draft?: string;
  conversation?: string;
  scope?: string;
  log?: boolean;
  tools?: object[];
  [parameter: string]: unknown;
}

export interface Choice {
  index: number;
  text: string;
  reasoning: string;
  tool_calls: { id: string; name: string; arguments: Record<string, unknown> }[];
  finish_reason: "stop" | "length" | "tool_calls";
}

export interface Completion {
  choices: Choice[];
  usage: {
    prompt_tokens: number;
    cached_tokens: number;
    completion_tokens: number;
    reasoning_tokens: number;
  };
  timing: Record<string, number>;
  applied: { model: string; seed: number; notes: string[]; [field: string]: unknown };
}

export type Event =
  | { type: "queued"; position: number }
  | { type: "loading"; model: string; done_bytes?: number; total_bytes?: number }
  | { type: "prefill"; done: number; total: number }
  | { type: "delta"; index: number; text: string; channel: "answer" | "reasoning" }
  | { type: "tool_call"; index: number; call_id: string; name: string; arguments: object }
  | { type: "progress"; file: string; done: number; total: number };
