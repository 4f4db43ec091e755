/** The status bar's text. Editor-independent. */

export interface State {
  /** Number of answers in progress. */
  busy: number;
  /** The daemon's default model, or undefined without a daemon. */
  model: string | undefined;
  completion: boolean;
  /** Whether the next request starts a daemon. */
  starts: boolean;
}

export interface Label {
  text: string;
  tooltip: string;
  command: "mlxd.stop" | "mlxd.toggleCompletion";
}

/** Return the item's text, tooltip and command. */
export function label(state: State): Label {
  const name = state.model ?? "mlxd";
  if (state.busy > 0) {
    return { text: `$(loading~spin) ${name}`, tooltip: "mlxd is answering. Click to stop", command: "mlxd.stop" };
  }
  const icon = state.model === undefined ? "debug-disconnect" : state.completion ? "sparkle" : "circle-slash";
  return { text: `$(${icon}) ${name}`, tooltip: tooltip(state), command: "mlxd.toggleCompletion" };
}

function tooltip({ model, completion, starts }: State): string {
  const next = starts ? "The next request starts it" : "Start it: mlxd start";
  const daemon = model === undefined ? `No daemon is running. ${next}` : `mlxd answers with ${model}`;
  return `${daemon}\nCompletion is ${completion ? "on" : "off"}. Click to turn it ${completion ? "off" : "on"}`;
}
