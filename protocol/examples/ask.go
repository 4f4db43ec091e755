// Streams an answer, in JSON. Needs nothing but Go: go run ask.go QUESTION
package main

import ("encoding/json"; "fmt"; "net"; "os"; "strings")

func main() {
	path := os.Getenv("MLXD_SOCKET")
	if path == "" { path = os.Getenv("XDG_RUNTIME_DIR") + "/mlxd/mlxd.sock" }
	connection, err := net.Dial("unix", path)
	if err != nil { fmt.Fprintln(os.Stderr, err, "\nStart it: mlxd start"); os.Exit(3) }
	type object = map[string]any
	messages := []object{{"role": "user", "content": strings.Join(os.Args[1:], " ")}}
	params := object{"messages": messages, "temperature": 0, "stream": true}
	json.NewEncoder(connection).Encode(object{"jsonrpc": "2.0", "id": 1, "method": "chat", "params": params})
	answers := json.NewDecoder(connection)
	for {
		var message struct {
			Params struct { Type, Text string }
			Result *object
			Error  *struct { Message string; Data struct { Hint string } }
		}
		if err := answers.Decode(&message); err != nil { fmt.Fprintln(os.Stderr, err); os.Exit(8) }
		if e := message.Error; e != nil { fmt.Fprintf(os.Stderr, "%s\n%s\n", e.Message, e.Data.Hint); os.Exit(1) }
		if message.Result != nil { fmt.Println(); return }
		if message.Params.Type == "delta" { fmt.Print(message.Params.Text) }
	}
}
