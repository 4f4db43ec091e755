/** The extension: commands, completion, chat participant and status bar. */
import * as vscode from "vscode";
import { MlxdError, type Options } from "mlxd-client";
import { Completer } from "./completion.js";
import { Connection } from "./connection.js";
import { around } from "./context.js";
import { bare, messagesOf, question, type Turn } from "./prompts.js";
import { Status } from "./status.js";
import { Writer } from "./writer.js";

const settings = () => vscode.workspace.getConfiguration("mlxd");

function connectOptions() {
  const command = settings().get<string[]>("command", []);
  return { path: settings().get<string>("socket") || undefined, command: command.length ? command : (false as const) };
}

function askOptions(): Options {
  const temperature = settings().get<number | null>("temperature", null);
  const model = settings().get<string>("model");
  return { ...(model ? { model } : {}), ...(temperature === null ? {} : { temperature }) };
}

export function activate(context: vscode.ExtensionContext) {
  const connection = new Connection(connectOptions, () => status.refresh());
  const status: Status = new Status(() => shown(connection));
  const asker = new Asker(connection, status);
  const completer = new Completer(() => connection.client());
  context.subscriptions.push(
    status,
    { dispose: () => void connection.close() },
    vscode.commands.registerCommand("mlxd.ask", (prompt?: string) => asker.ask(prompt)),
    vscode.commands.registerCommand("mlxd.replace", (prompt?: string) => asker.replace(prompt)),
    vscode.commands.registerCommand("mlxd.stop", () => asker.stop()),
    vscode.commands.registerCommand("mlxd.toggleCompletion", toggleCompletion),
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, new Provider(completer)),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("mlxd.socket")) void connection.close().then(() => connection.look());
      if (change.affectsConfiguration("mlxd")) status.refresh();
    }),
  );
  // Editors built on VS Code may have no chat.
  if (typeof vscode.chat?.createChatParticipant === "function") {
    context.subscriptions.push(vscode.chat.createChatParticipant("mlxd.chat", chatHandler(connection, status)));
  }
  void connection.look();
  return { completer, asker };
}

function shown(connection: Connection) {
  const own = settings().get<string>("model");
  return {
    model: connection.defaultModel === undefined ? undefined : own || connection.defaultModel,
    completion: settings().get<boolean>("completion.enabled", true),
    starts: connectOptions().command !== false,
  };
}

async function toggleCompletion(): Promise<void> {
  const enabled = settings().get<boolean>("completion.enabled", true);
  await settings().update("completion.enabled", !enabled, vscode.ConfigurationTarget.Global);
  void vscode.window.setStatusBarMessage(`mlxd completion is ${enabled ? "off" : "on"}`, 3000);
}

class Asker {
  private readonly running = new Set<AbortController>();

  constructor(
    private readonly connection: Connection,
    private readonly status: Status,
  ) {}

  stop(): void {
    for (const one of this.running) one.abort(stopped());
  }

  /** Ask about the selection or the whole document. The answer opens in a document beside it. */
  async ask(given?: string): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    const prompt = given ?? (await vscode.window.showInputBox({ prompt: "Ask about the selection" }));
    if (!prompt) return;
    const code = !editor ? "" : editor.document.getText(editor.selection.isEmpty ? undefined : editor.selection);
    const text = question(prompt, code, editor?.document.languageId ?? "");
    const document = await vscode.workspace.openTextDocument({ language: "markdown", content: "" });
    await vscode.window.showTextDocument(document, vscode.ViewColumn.Beside, true);
    await this.answer(text, new Writer((part) => append(document, part)));
  }

  /** Replace the selection with the answer, in one undo step. */
  async replace(given?: string): Promise<void> {
    const editor = vscode.window.activeTextEditor;
    if (!editor) return;
    const prompt = given ?? (await vscode.window.showInputBox({ prompt: "How to change the selection" }));
    if (!prompt) return;
    const { document, selection } = editor;
    const before = document.getText(selection);
    const text = question(prompt, before, document.languageId, true);
    const answer = await this.answer(text);
    if (answer === undefined) return;
    if (document.getText(selection) !== before) {
      void vscode.window.showWarningMessage("mlxd: the selection changed while the model answered, so it was not replaced.");
      return;
    }
    await editor.edit((edit) => edit.replace(selection, bare(answer)));
  }

  /** Return the answer, or undefined after showing an error. */
  private async answer(text: string, writer?: Writer): Promise<string | undefined> {
    const abort = new AbortController();
    const busy = this.status.begin();
    this.running.add(abort);
    try {
      const client = await this.connection.client();
      const messages = messagesOf(settings().get("system", ""), [], text);
      let all = "";
      for await (const piece of client.chatText(messages, { ...askOptions(), signal: abort.signal })) {
        all += piece;
        writer?.add(piece);
      }
      await writer?.end();
      return all;
    } catch (error) {
      complain(error);
      return undefined;
    } finally {
      this.running.delete(abort);
      busy.dispose();
    }
  }
}

function stopped(): MlxdError {
  return new MlxdError("cancelled", "Stopped.", "");
}

/** Append to a document, which need not be visible. If it is closed, the answer is cancelled. */
async function append(document: vscode.TextDocument, text: string): Promise<void> {
  if (document.isClosed) throw stopped();
  const edit = new vscode.WorkspaceEdit();
  edit.insert(document.uri, document.lineAt(document.lineCount - 1).range.end, text);
  await vscode.workspace.applyEdit(edit);
}

function complain(error: unknown): void {
  if (error instanceof MlxdError && error.code === "cancelled") return;
  const hint = error instanceof MlxdError ? ` ${error.hint}` : "";
  void vscode.window.showErrorMessage(`mlxd: ${error instanceof Error ? error.message : String(error)}${hint}`);
}

class Provider implements vscode.InlineCompletionItemProvider {
  constructor(private readonly completer: Completer) {}

  async provideInlineCompletionItems(
    document: vscode.TextDocument,
    position: vscode.Position,
    _context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
  ): Promise<vscode.InlineCompletionItem[]> {
    if (!wanted(document)) return [];
    const abort = new AbortController();
    const listener = token.onCancellationRequested(() => abort.abort());
    const text = await this.completer.complete(
      {
        ...around(document.getText(), document.offsetAt(position)),
        key: `vscode-${process.pid}-${document.uri.toString()}`,
        debounceMs: settings().get("completion.debounceMs", 60),
        budgetMs: settings().get("completion.budgetMs", 1500),
        maxTokens: settings().get("completion.maxTokens", 48),
        model: settings().get("model", ""),
      },
      abort.signal,
    );
    listener.dispose();
    return text && !token.isCancellationRequested
      ? [new vscode.InlineCompletionItem(text, new vscode.Range(position, position))]
      : [];
  }
}

function wanted(document: vscode.TextDocument): boolean {
  if (!settings().get("completion.enabled", true)) return false;
  const languages = settings().get<Record<string, boolean>>("completion.languages", {});
  return languages[document.languageId] ?? languages["*"] ?? true;
}

function chatHandler(connection: Connection, status: Status): vscode.ChatRequestHandler {
  return async (request, context, response, token) => {
    const abort = new AbortController();
    const listener = token.onCancellationRequested(() => abort.abort());
    const busy = status.begin();
    try {
      const client = await connection.client();
      const messages = messagesOf(settings().get("system", ""), turnsOf(context), request.prompt);
      for await (const text of client.chatText(messages, { ...askOptions(), signal: abort.signal })) {
        response.markdown(text);
      }
    } catch (error) {
      if (!token.isCancellationRequested) throw error;
    } finally {
      listener.dispose();
      busy.dispose();
    }
  };
}

function turnsOf(context: vscode.ChatContext): Turn[] {
  return context.history.map((turn): Turn => {
    if (turn instanceof vscode.ChatRequestTurn) return { role: "user", text: turn.prompt };
    const parts = turn.response.filter((part) => part instanceof vscode.ChatResponseMarkdownPart);
    return { role: "assistant", text: parts.map((part) => part.value.value).join("") };
  });
}
