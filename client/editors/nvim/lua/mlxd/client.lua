--- MessagePack-RPC over the daemon's socket. Nothing here blocks the editor.
local M = {}
local uv = vim.uv or vim.loop

---@class mlxd.Error
---@field code string
---@field message string
---@field hint string

---@class mlxd.Request
---@field cancel fun() stops the work in the daemon; `on_done` is not called any more

---@class mlxd.Connection
---@field pipe any
---@field ready boolean
---@field queue string[] what waits for the connection
---@field waiting table<integer, { done: function, event: function? }>

---@type mlxd.Connection?
local connection
local next_id = 0
local START_MS = 15000

--- Where the daemon listens.
---@return string
function M.socket_path()
  local chosen = require('mlxd').options.socket or vim.env.MLXD_SOCKET
  if chosen and chosen ~= '' then return chosen end
  local runtime = vim.env.XDG_RUNTIME_DIR
  if runtime and runtime ~= '' then return runtime .. '/mlxd/mlxd.sock' end
  local state = vim.env.MLXD_STATE_DIR
  if state and state ~= '' then return state .. '/mlxd.sock' end
  if vim.fn.has('mac') == 1 then
    return vim.fn.expand('~/Library/Application Support/mlxd/mlxd.sock')
  end
  local base = vim.env.XDG_STATE_HOME
  if not base or base == '' then base = vim.fn.expand('~/.local/state') end
  return base .. '/mlxd/mlxd.sock'
end

---@param message string
---@param hint string
---@return mlxd.Error
local function unreachable(message, hint)
  return { code = 'daemon_unreachable', message = message, hint = hint }
end

--- End a connection; whoever waits on it is told why.
---@param ended mlxd.Connection
---@param err mlxd.Error
local function hang_up(ended, err)
  if connection == ended then connection = nil end
  if not ended.pipe:is_closing() then ended.pipe:close() end
  local waiting = ended.waiting
  ended.waiting = {}
  vim.schedule(function()
    for _, one in pairs(waiting) do one.done(err, nil) end
  end)
end

---@param owner mlxd.Connection
---@param message any[]
local function take(owner, message)
  if message[1] == 1 then
    local one = owner.waiting[message[2]]
    owner.waiting[message[2]] = nil
    if one then
      local err, result = message[3], message[4]
      vim.schedule(function() one.done(err ~= vim.NIL and err or nil, result) end)
    end
  elseif message[1] == 2 and message[2] == 'event' then
    local event = message[3][1]
    local one = owner.waiting[event.id]
    if one and one.event then vim.schedule(function() one.event(event) end) end
  end
end

---@param owner mlxd.Connection
local function read(owner)
  local unpack = vim.mpack.Unpacker()
  owner.pipe:read_start(function(err, data)
    if err or not data then
      return hang_up(owner, unreachable('The daemon went away.', 'See what it says: mlxd logs'))
    end
    local at = 1
    while at <= #data do
      local message
      message, at = unpack(data, at)
      if message == nil then break end
      take(owner, message)
    end
  end)
end

---@param owner mlxd.Connection
local function connected(owner)
  owner.ready = true
  read(owner)
  for _, data in ipairs(owner.queue) do owner.pipe:write(data) end
  owner.queue = {}
end

local start

--- Connect; where nobody listens, start a daemon once and try again.
---@param owner mlxd.Connection
---@param may_start boolean
local function connect(owner, may_start)
  owner.pipe = uv.new_pipe(false)
  local ok, problem = pcall(owner.pipe.connect, owner.pipe, M.socket_path(), function(err)
    if not err then return connected(owner) end
    owner.pipe:close()
    if may_start then return vim.schedule(function() start(owner) end) end
    hang_up(owner, unreachable('No mlxd runs (' .. err .. ').', 'Start it: mlxd start'))
  end)
  if not ok then hang_up(owner, unreachable(tostring(problem), 'Check the option `socket`.')) end
end

start = function(owner)
  local command = require('mlxd').options.command
  if not command or vim.env.MLXD_AUTOSTART == '0' then
    return hang_up(owner, unreachable('No mlxd runs.', 'Start it: mlxd start'))
  end
  local said = {}
  local ok, job = pcall(vim.fn.jobstart, command, {
    on_stderr = function(_, lines) vim.list_extend(said, lines) end,
    on_exit = function(_, status)
      if status == 0 then return connect(owner, false) end
      hang_up(owner, unreachable(vim.trim(table.concat(said, '\n')), 'See what it says: mlxd run'))
    end,
  })
  if not ok or job <= 0 then
    return hang_up(owner, unreachable(command[1] .. ' is not installed.',
      'Install mlxd, or set the option `command`.'))
  end
  vim.defer_fn(function()
    if not owner.ready then vim.fn.jobstop(job) end
  end, START_MS)
end

---@param data string
local function send(owner, data)
  if owner.ready then
    owner.pipe:write(data)
  else
    table.insert(owner.queue, data)
  end
end

--- Ask the daemon. The callbacks run on Neovim's main loop.
---@param method string
---@param params table<string, any>
---@param on_done fun(err: mlxd.Error?, result: any)
---@param on_event? fun(event: table) asks for streaming
---@return mlxd.Request
function M.request(method, params, on_done, on_event)
  if not connection then
    connection = { ready = false, queue = {}, waiting = {} }
    connect(connection, true)
  end
  local owner = connection --[[@as mlxd.Connection]]
  next_id = next_id + 1
  local id = next_id
  owner.waiting[id] = { done = on_done, event = on_event }
  if on_event then params = vim.tbl_extend('force', params, { stream = true }) end
  send(owner, vim.mpack.encode({ 0, id, method, next(params) and { params } or {} }))
  return {
    cancel = function()
      if owner.waiting[id] then
        owner.waiting[id] = nil
        send(owner, vim.mpack.encode({ 2, 'cancel', { { id = id } } }))
      end
    end,
  }
end

--- Hang up; for tests and for `:MlxStop`.
function M.close()
  if connection then hang_up(connection, unreachable('Closed.', 'Ask again.')) end
end

return M
