export { Client, Stream, type CallOptions } from "./client.js";
export { messages, notification, request, type Wire } from "./codec.js";
export { MlxdError } from "./errors.js";
export { socketPath, type ConnectOptions } from "./socket.js";
export type { Choice, Completion, Event, Message, Options } from "./types.js";
