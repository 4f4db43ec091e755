/** The status bar item. It shows the model, and whether an answer is in progress. */
import * as vscode from "vscode";
import { label, type State } from "./label.js";

export class Status implements vscode.Disposable {
  private readonly item = vscode.window.createStatusBarItem("mlxd", vscode.StatusBarAlignment.Right);
  private busy = 0;

  constructor(private readonly state: () => Omit<State, "busy">) {
    this.item.name = "mlxd";
    this.refresh();
    this.item.show();
  }

  /** Show an answer in progress until the returned object is disposed of. */
  begin(): vscode.Disposable {
    this.busy += 1;
    this.refresh();
    return {
      dispose: () => {
        this.busy -= 1;
        this.refresh();
      },
    };
  }

  refresh(): void {
    Object.assign(this.item, label({ ...this.state(), busy: this.busy }));
  }

  dispose(): void {
    this.item.dispose();
  }
}
