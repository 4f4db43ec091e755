-- Streams an answer, in JSON. Needs: lua-socket, lua-cjson
local json = require "cjson"
local unix = require "socket.unix"

local path = os.getenv("MLXD_SOCKET") or os.getenv("XDG_RUNTIME_DIR") .. "/mlxd/mlxd.sock"
local connection = unix()
assert(connection:connect(path))
connection:send(json.encode {
  jsonrpc = "2.0", id = 1, method = "chat",
  params = {
    messages = { { role = "user", content = table.concat(arg, " ") } },
    temperature = 0, stream = true,
  },
} .. "\n")

for line in function() return (connection:receive("*l")) end do
  local message = json.decode(line)
  if message.error then
    io.stderr:write(message.error.message, "\n", message.error.data.hint, "\n")
    os.exit(1)
  elseif message.result then
    print()
    break
  elseif message.params.type == "delta" then
    io.write(message.params.text):flush()
  end
end
