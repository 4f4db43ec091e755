/** What the status bar says. Knows no editor. */

export interface State {
  /** Questions that are being answered. */
  busy: number;
  /** The model that answers; undefined where no daemon does. */
  model: string | undefined;
  completion: boolean;
  /** Whether the next question starts a daemon. */
  starts: boolean;
}

export interface Label {
  text: string;
  tooltip: string;
  command: "mlxd.stop" | "mlxd.toggleCompletion";
}

/** Return what the item shows, and what a click on it does. */
export function label(state: State): Label {
  const name = state.model ?? "mlxd";
  if (state.busy > 0) {
    return { text: `$(loading~spin) ${name}`, tooltip: "mlxd is answering; click to stop", command: "mlxd.stop" };
  }
  const icon = state.model === undefined ? "debug-disconnect" : state.completion ? "sparkle" : "circle-slash";
  return { text: `$(${icon}) ${name}`, tooltip: tooltip(state), command: "mlxd.toggleCompletion" };
}

function tooltip({ model, completion, starts }: State): string {
  const next = starts ? "the next question starts it" : "start it: mlxd start";
  const daemon = model === undefined ? `No daemon runs; ${next}` : `mlxd answers with ${model}`;
  return `${daemon}\nCompletion is ${completion ? "on" : "off"}; click to turn it ${completion ? "off" : "on"}`;
}
