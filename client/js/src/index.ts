export type { CallOptions, Timeouts } from "./call.js";
export { Client, type ClientOptions } from "./client.js";
export { messages, notification, request, type Wire } from "./codec.js";
export { ConnectionClosed, MlxdError, RequestTimeout } from "./errors.js";
export { findProgram, socketPath, type ConnectOptions } from "./socket.js";
export { Stream } from "./stream.js";
export type { Choice, Completion, Event, Message, Options } from "./types.js";
