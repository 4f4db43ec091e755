--- MessagePack-RPC without I/O: bytes in, messages out, whatever the pieces.
local M = {}

---@class mlxd.Response
---@field id integer
---@field error mlxd.Error?
---@field result any

---@class mlxd.Message one of both
---@field response mlxd.Response?
---@field event table<string, any>?

---@param id integer
---@param method string
---@param params table<string, any>
---@return string
function M.request(id, method, params)
  -- Lua's empty table could be a list as well; absent means empty.
  return vim.mpack.encode({ 0, id, method, next(params) and { params } or {} })
end

---@param method string
---@param params table<string, any>
---@return string
function M.notification(method, params)
  return vim.mpack.encode({ 2, method, { params } })
end

---@param raw any[]
---@return mlxd.Message? nil for a kind that a newer daemon may send
local function message_of(raw)
  if raw[1] == 1 then
    local err = raw[3]
    return { response = { id = raw[2], error = err ~= vim.NIL and err or nil, result = raw[4] } }
  elseif raw[1] == 2 and raw[2] == 'event' then
    return { event = raw[3][1] }
  end
end

--- Return what takes the bytes of one connection, piece by piece, and returns whole messages.
---@return fun(data: string): mlxd.Message[]
function M.decoder()
  local unpack = vim.mpack.Unpacker()
  return function(data)
    local found, at = {}, 1
    while at <= #data do
      local raw
      raw, at = unpack(data, at)
      if raw == nil then break end
      table.insert(found, message_of(raw))
    end
    return found
  end
end

return M
