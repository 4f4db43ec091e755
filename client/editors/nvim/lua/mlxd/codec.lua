--- A MessagePack-RPC codec without I/O. Accepts bytes in any chunks.
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
  -- An empty Lua table could also be a list. Leaving it out means empty.
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

--- Return a function that takes bytes of one connection and returns the complete messages.
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
