#!/bin/sh
# Streams an answer, in JSON. Needs: nc that knows Unix sockets, jq
jq -nc --arg text "$*" '{jsonrpc: "2.0", id: 1, method: "chat", params:
    {messages: [{role: "user", content: $text}], temperature: 0, stream: true}}' |
  nc -N -U "${MLXD_SOCKET:-$XDG_RUNTIME_DIR/mlxd/mlxd.sock}" |
  jq --unbuffered -j 'if .error then "\(.error.message)\n\(.error.data.hint)\n" | halt_error(1)
    elif .result then "\n"
    elif .params.type == "delta" then .params.text
    else empty end'
