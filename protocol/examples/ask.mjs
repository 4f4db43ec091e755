// Streams an answer, in JSON. Needs nothing but Node.
import { connect } from "node:net";
import { createInterface } from "node:readline";

const path = process.env.MLXD_SOCKET ?? `${process.env.XDG_RUNTIME_DIR}/mlxd/mlxd.sock`;
const messages = [{ role: "user", content: process.argv.slice(2).join(" ") }];
const params = { messages, temperature: 0, stream: true };

const connection = connect(path);
connection.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method: "chat", params }) + "\n");
for await (const line of createInterface({ input: connection })) {
  const message = JSON.parse(line);
  if (message.error) {
    console.error(`${message.error.message}\n${message.error.data.hint}`);
    process.exit(1);
  } else if (message.result) {
    console.log();
    break;
  } else if (message.params.type === "delta") {
    process.stdout.write(message.params.text);
  }
}
connection.end();
